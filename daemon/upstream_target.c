/*
 * Whom to call: what stands in a provider's URLs, the head that every request to one begins with,
 * and which of them is next.  Worker process.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/dialect.h"
#include "daemon/secret.h"
#include "daemon/upstream_private.h"
#include "shm/clock.h"

/* Made in protected memory at once: the key is in no buffer that grows. */
static bool
make_head(struct target *t, const struct dialect *d, const char *where, const char *key)
{
	static const char fields[] =
	    "\r\nUser-Agent: tolld/" TOLLD_VERSION "\r\nContent-Type: application/json\r\nAccept: ";
	size_t size = strlen(where) + sizeof fields + strlen(d->accept) + strlen(d->headers) +
	              strlen(d->auth) + strlen(key) + 16;
	int n;

	t->head = secret_new(size);
	n = snprintf(t->head, size, "%s%s%s\r\n%s%s%s%s", where, fields, d->accept, d->headers,
	    *key != '\0' ? d->auth : "", key, *key != '\0' ? "\r\n" : "");
	t->head_len = (size_t)n;
	return n > 0 && (size_t)n < size;
}

/* What every request to it begins with; false if its URL is none. */
static bool
target_init(struct target *t, const struct config_provider *p, int which, int key)
{
	const struct dialect *d = dialect_of(p->dialect);
	CURLU *url = curl_url();
	char *scheme = NULL, *host = NULL, *port = NULL, *base = NULL;
	struct buf where = {0};
	bool good = url != NULL &&
	            curl_url_set(url, CURLUPART_URL, p->base_url[which], 0) == CURLUE_OK &&
	            curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
	            curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
	            curl_url_get(url, CURLUPART_PATH, &base, 0) == CURLUE_OK;

	if (good) {
		size_t n = strlen(base);

		if (curl_url_get(url, CURLUPART_PORT, &port, 0) != CURLUE_OK)
			port = NULL;
		while (n > 0 && base[n - 1] == '/')
			n--;
		t->url = strdup(p->base_url[which]);
		t->tls = strcmp(scheme, "https") == 0;
		if (asprintf(&t->start, "POST %.*s", (int)n, base) < 0)
			t->start = NULL;
		buf_printf(&where, " HTTP/1.1\r\nHost: %s", host);
		if (port != NULL)
			buf_printf(&where, ":%s", port);
		buf_add(&where, "", 1);
		good = t->url != NULL && t->start != NULL && !where.failed &&
	    make_head(t, d, where.data, p->api_key[key]);
	}
	buf_free(&where);
	curl_free(scheme);
	curl_free(host);
	curl_free(port);
	curl_free(base);
	curl_url_cleanup(url);
	return good;
}

/* Close its connections that wait. */
static void
drop_idle(struct target *t)
{
	struct link *l;

	while ((l = t->idle) != NULL) {
		t->idle = l->next;
		t->idle_count--;
		link_free(l);
	}
}

static void
target_fini(struct target *t)
{
	drop_idle(t);
	free(t->url);
	free(t->start);
	secret_free(t->head);
}

struct pool *
pool_new(const struct config_provider *p)
{
	struct pool *pool = calloc(1, sizeof *pool);
	int n = p->base_urls * p->api_keys;
	bool good = pool != NULL && (pool->target = calloc((size_t)n, sizeof *pool->target)) != NULL;

	if (good && p->ca != NULL && (good = (pool->ca = malloc(p->ca_len + 1)) != NULL)) {
		memcpy(pool->ca, p->ca, p->ca_len + 1);
		pool->ca_len = p->ca_len;
	}
	for (int i = 0; i < n && good; i++) {
		pool->targets = i + 1;
		pool->target[i].pool = pool;
		good = target_init(&pool->target[i], p, i % p->base_urls, i / p->base_urls);
	}
	if (pool == NULL)
		return NULL;
	pool->dialect = p->dialect;
	pool->refs = 1;
	if (good)
		return pool;
	pool_free(pool);
	return NULL;
}

void
pool_free(struct pool *p)
{
	if (p == NULL || --p->refs > 0)
		return;
	for (int i = 0; i < p->targets; i++)
		target_fini(&p->target[i]);
	free(p->target);
	free(p->ca);
	free(p);
}

void
pool_retire(struct pool *p)
{
	p->retired = true;
	for (int i = 0; i < p->targets; i++)
		drop_idle(&p->target[i]);
}

struct breaker *
upstream_breaker(struct upstream_view *v, int provider, int target)
{
	return &v->pool[provider]->target[target].breaker;
}

int
upstream_pick(struct upstream_view *v, int provider, uint64_t tried, uint64_t *until_us)
{
	struct pool *pool = v->pool[provider];
	uint64_t now = coarse_us();
	int n = pool->targets, best = -1;
	bool best_fresh = false;

	*until_us = UINT64_MAX;
	for (int k = 0; k < n; k++) {
		int i = (pool->turn + k) % n;
		const struct target *t = &pool->target[i];
		bool fresh = (tried >> i & 1) == 0;
		uint64_t until = breaker_until(&t->breaker, now);

		if (!breaker_allows(&t->breaker, now)) {
			*until_us = until < *until_us ? until : *until_us;
			continue;
		}
		if (best >= 0 && (fresh < best_fresh ||
		                     (fresh == best_fresh &&
		                         t->calls >= pool->target[best].calls)))
			continue;
		best = i;
		best_fresh = fresh;
	}
	if (best >= 0) {
		*until_us = now;
		pool->turn = (best + 1) % n;
	}
	return best;
}
