/*
 * Whom to call: what stands in a provider's URL, and the head that every request to it begins
 * with.  Worker process.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/upstream_private.h"

bool
target_init(struct target *t, const struct config_provider *p, const char *path)
{
	CURLU *url = curl_url();
	char *scheme = NULL, *host = NULL, *port = NULL, *base = NULL;
	bool good = url != NULL &&
	    curl_url_set(url, CURLUPART_URL, p->base_url, 0) == CURLUE_OK &&
	    curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
	    curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
	    curl_url_get(url, CURLUPART_PATH, &base, 0) == CURLUE_OK;

	if (good) {
		size_t n = strlen(base);

		if (curl_url_get(url, CURLUPART_PORT, &port, 0) != CURLUE_OK)
			port = NULL;
		while (n > 0 && base[n - 1] == '/')
			n--;
		t->tls = strcmp(scheme, "https") == 0;
		buf_printf(&t->head, "POST %.*s%s HTTP/1.1\r\nHost: %s", (int)n, base, path, host);
		if (port != NULL)
			buf_printf(&t->head, ":%s", port);
		buf_str(&t->head, "\r\nUser-Agent: tolld/" TOLLD_VERSION
				  "\r\nContent-Type: application/json"
				  "\r\nAccept: text/event-stream, application/json\r\n");
		if (p->api_key[0] != '\0')
			buf_printf(&t->head, "Authorization: Bearer %s\r\n", p->api_key);
		t->url = strdup(p->base_url);
	}
	curl_free(scheme);
	curl_free(host);
	curl_free(port);
	curl_free(base);
	curl_url_cleanup(url);
	return good && t->url != NULL && !t->head.failed;
}

void
target_fini(struct target *t)
{
	buf_free(&t->head);
	free(t->url);
}
