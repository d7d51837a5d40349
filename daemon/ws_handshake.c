/*
 * What a request must say to become a WebSocket.  Pure.
 *
 * A browser sends its page's origin by itself and lets any page connect to anywhere, so the
 * origin is checked here, as CORS has the browser do it for other requests.  A page that was
 * served by the same host may always connect.
 */
#include "daemon/ws_handshake.h"

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <string.h>
#include <strings.h>

#define GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#define VERSION "13"
#define NONCE_LEN 24 /* 16 bytes in base64 */

static bool
refuse(struct ws_fault *f, int status, const char *param, const char *message)
{
	*f = (struct ws_fault){status, "invalid_request", param, message};
	return false;
}

/* How often a header is there; *value is the first one's. */
static int
count(const struct http_request *rq, const char *name, struct span *value)
{
	int n = 0;

	*value = (struct span){NULL, 0};
	for (int i = 0; i < rq->headers; i++)
		if (span_case_eq(rq->header[i].name, name) && n++ == 0)
			*value = rq->header[i].value;
	return n;
}

/* The next element of a comma-separated list, without blanks; false at its end. */
static bool
next_element(struct span *list, struct span *element)
{
	const char *comma;

	if (list->p == NULL)
		return false;
	comma = list->len > 0 ? memchr(list->p, ',', list->len) : NULL;
	*element = (struct span){list->p, comma != NULL ? (size_t)(comma - list->p) : list->len};
	*list = comma != NULL ? (struct span){comma + 1, list->len - element->len - 1}
	                      : (struct span){NULL, 0};
	while (element->len > 0 && (*element->p == ' ' || *element->p == '\t'))
		*element = (struct span){element->p + 1, element->len - 1};
	while (element->len > 0 &&
	       (element->p[element->len - 1] == ' ' || element->p[element->len - 1] == '\t'))
		element->len--;
	return true;
}

/* Is it in one of the lists that a header of this name gives? */
static bool
listed(const struct http_request *rq, const char *name, const char *token, bool any_case)
{
	for (int i = 0; i < rq->headers; i++) {
		struct span list = rq->header[i].value, element;

		if (!span_case_eq(rq->header[i].name, name))
			continue;
		while (next_element(&list, &element))
			if (any_case ? span_case_eq(element, token) : span_eq(element, token))
				return true;
	}
	return false;
}

/* Sixteen bytes in base64, of any value. */
static bool
nonce_ok(struct span key)
{
	if (key.len != NONCE_LEN || memcmp(key.p + NONCE_LEN - 2, "==", 2) != 0)
		return false;
	for (size_t i = 0; i < NONCE_LEN - 2; i++) {
		char c = key.p[i];

		if (!((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
		        c == '+' || c == '/'))
			return false;
	}
	return true;
}

static bool
origin_ok(const struct http_request *rq, const struct config *cfg, struct span origin)
{
	struct span host = http_header(rq, "host"), authority;
	const char *slashes;

	for (int i = 0; i < cfg->origin_count; i++)
		if (strcmp(cfg->origins[i], "*") == 0 || span_eq(origin, cfg->origins[i]))
			return true;
	slashes = origin.len > 0 ? memmem(origin.p, origin.len, "://", 3) : NULL;
	if (slashes == NULL || host.len == 0)
		return false;
	authority = (struct span){slashes + 3, origin.len - (size_t)(slashes + 3 - origin.p)};
	return authority.len == host.len && strncasecmp(authority.p, host.p, host.len) == 0;
}

static void
make_accept(struct span key, char accept[static WS_ACCEPT_LEN + 1])
{
	unsigned char text[NONCE_LEN + sizeof GUID - 1], digest[SHA_DIGEST_LENGTH];

	memcpy(text, key.p, NONCE_LEN);
	memcpy(text + NONCE_LEN, GUID, sizeof GUID - 1);
	SHA1(text, sizeof text, digest);
	EVP_EncodeBlock((unsigned char *)accept, digest, sizeof digest);
}

bool
ws_handshake_check(const struct http_request *rq, const struct config *cfg, struct ws_handshake *hs,
    struct ws_fault *f)
{
	struct span key, version, origin, offers;

	*hs = (struct ws_handshake){0};
	if (rq->method != HTTP_GET)
		return refuse(f, 405, NULL, "a WebSocket begins with GET");
	if (!listed(rq, "upgrade", "websocket", true) || !listed(rq, "connection", "upgrade", true))
		return refuse(f, 426, "Upgrade",
		    "this is a WebSocket: \"Connection: Upgrade\" and \"Upgrade: websocket\" are "
		    "missing");
	if (rq->minor != 1)
		return refuse(f, 400, NULL, "a WebSocket needs HTTP/1.1");
	if (rq->chunked || rq->content_length > 0)
		return refuse(f, 400, NULL, "a WebSocket's handshake has no body");
	if (count(rq, "sec-websocket-version", &version) != 1 || !span_eq(version, VERSION))
		return refuse(
		    f, 426, "Sec-WebSocket-Version", "'Sec-WebSocket-Version' must be " VERSION);
	if (count(rq, "sec-websocket-key", &key) != 1 || !nonce_ok(key))
		return refuse(f, 400, "Sec-WebSocket-Key",
		    "'Sec-WebSocket-Key' must be 16 bytes in base64, once");
	if (count(rq, "origin", &origin) > 1)
		return refuse(f, 400, "Origin", "'Origin' is there more than once");
	if (origin.p != NULL && !origin_ok(rq, cfg, origin)) {
		*f = (struct ws_fault){403, "origin_not_allowed", "Origin",
		    "pages of this origin may not connect: it is not in cors_origins"};
		return false;
	}
	hs->subprotocol = listed(rq, "sec-websocket-protocol", WS_SUBPROTOCOL, false);
	/* Browsers drop a connection whose offers were not answered by one of them. */
	if (!hs->subprotocol && count(rq, "sec-websocket-protocol", &offers) > 0)
		return refuse(f, 400, "Sec-WebSocket-Protocol",
		    "of the subprotocols offered none is \"" WS_SUBPROTOCOL "\"");
	make_accept(key, hs->accept);
	return true;
}
