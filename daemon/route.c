/*
 * Which handler a request belongs to, and may it: path, method, key, expectation; OPTIONS and
 * CORS.  Worker; all of it is decided by the head alone, before a body is read.
 */
#include <string.h>

#include "daemon/auth.h"
#include "daemon/conn_state.h"
#include "daemon/metrics.h"
#include "daemon/peer.h"
#include "shm/clock.h"
#include "shm/journal_record.h"

#define EXPOSED                                                                                 \
	"x-request-id, request-id, retry-after, x-should-retry, idempotent-replayed, x-tolld-provider, "     \
	"x-tolld-available, x-tolld-cost, x-tolld-finish, x-tolld-short-of, "                   \
	"x-tolld-overhead-ms, x-tolld-stream-id, "                                               \
	"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "                          \
	"x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, " \
	"x-ratelimit-reset-tokens"
#define ALLOWED_HEADERS                                                 \
	"authorization, content-type, idempotency-key, last-event-id, " \
	"x-api-key, x-request-id, anthropic-version, traceparent"

/* A path that ends in '*' stands for all that begin with what is before it. */
static bool
path_matches(const char *route, struct span path)
{
	size_t n = strlen(route);

	if (n > 1 && route[n - 1] == '*')
		return path.len >= n - 1 && memcmp(path.p, route, n - 1) == 0;
	return path.len == n && memcmp(path.p, route, n) == 0;
}

static unsigned
route_methods(const struct route *r)
{
	return r->methods | ((r->methods & HTTP_GET) != 0 ? HTTP_HEAD : 0);
}

/* Every method that some route of this path takes; *found is the one that takes rq's. */
static unsigned
path_methods(const struct server *s, const struct http_request *rq, const struct route **found)
{
	unsigned methods = 0;

	*found = NULL;
	for (const struct route *r = s->routes; r->path != NULL; r++) {
		if (!path_matches(r->path, rq->path))
			continue;
		/* Of a path's routes the first stands for it where no method fits. */
		if (*found == NULL || (route_methods(r) & rq->method & ~methods) != 0)
			*found = r;
		methods |= route_methods(r);
	}
	return methods;
}

static int8_t
cors_of(const struct server *s, const struct http_request *rq)
{
	struct span origin = http_header(rq, "origin");

	if (origin.p == NULL)
		return CORS_NONE;
	if (s->cors_any)
		return CORS_ANY;
	for (int i = 0; i < s->config->origin_count; i++)
		if (span_eq(origin, s->config->origins[i]))
			return (int8_t)i;
	return CORS_NONE;
}

static bool
expects_else(const struct http_request *rq)
{
	for (int i = 0; i < rq->headers && rq->minor == 1; i++)
		if (span_case_eq(rq->header[i].name, "expect") &&
		    !span_case_eq(rq->header[i].value, "100-continue"))
			return true;
	return false;
}

static enum verdict
check_key(struct conn *c, const struct http_request *rq)
{
	struct span key;
	enum auth_result result =
	    auth_shown(rq, c->route != NULL && c->route->id == ROUTE_WS, &key);

	if (result == AUTH_OK)
		result = auth_shown_by(c->server->heritage, key, rq, realtime_us(), &c->caller);
	switch (result) {
	case AUTH_OK:
		break;
	case AUTH_MISSING:
		return VERDICT_KEY_MISSING;
	case AUTH_AMBIGUOUS:
		return VERDICT_KEY_AMBIGUOUS;
	case AUTH_REVOKED:
		return VERDICT_KEY_REVOKED;
	case AUTH_EXPIRED:
		return VERDICT_KEY_EXPIRED;
	case AUTH_TOKEN:
		return VERDICT_TOKEN;
	case AUTH_NO_ACCOUNT:
		return VERDICT_TOKEN_ACCOUNT;
	case AUTH_USER:
		return VERDICT_USER;
	case AUTH_UNKNOWN:
		return VERDICT_KEY_UNKNOWN;
	}
	return c->route == NULL || (c->caller.scopes & c->route->scope) != 0 ? VERDICT_OK
									       : VERDICT_SCOPE;
}

/* One more request without a good key: too many from this address? */
static enum verdict
stranger(struct conn *c, const struct http_request *rq, enum verdict v)
{
	struct limit_state s;

	return peer_asked(c->server->config, &c->server->heritage->region, c->fd, rq, &s)
	    ? v
	    : VERDICT_LIMITED;
}

static enum verdict
check_caller(struct conn *c, const struct http_request *rq)
{
	struct limit_state s;
	enum verdict v;

	/* Before the key is looked at: else guessing would go on, and only be answered otherwise. */
	if (!peer_may_ask(c->server->config, &c->server->heritage->region, c->fd, rq, &s))
		return VERDICT_LIMITED;
	v = check_key(c, rq);
	/* Whose key is good is no stranger, whatever it may not do. */
	return v == VERDICT_OK || v == VERDICT_SCOPE || v == VERDICT_USER ? v : stranger(c, rq, v);
}

/* A path that is not there counts like a key that is not good. */
static enum verdict
not_found(struct conn *c, const struct http_request *rq)
{
	if (c->server->config->limits.unauthenticated_per_minute == 0 ||
	    check_caller(c, rq) != VERDICT_LIMITED)
		return VERDICT_NOT_FOUND;
	return VERDICT_LIMITED;
}

/* 429, after which the same request is looked at again. */
static void
refuse_stranger(struct conn *c, const struct http_request *rq)
{
	struct limit_state s;

	metrics_limited(LIMITED_ADDRESS);
	(void)peer_may_ask(c->server->config, &c->server->heritage->region, c->fd, rq, &s);
	conn_header(c, "Retry-After", "%llu",
	    (unsigned long long)(s.retry_ns / 1000000000 +
		(s.retry_ns % 1000000000 != 0 || s.retry_ns == 0)));
	conn_error(c, 429, "requests", "rate_limit_exceeded", NULL,
	    "too many requests without a valid API key from this address");
}

uint32_t
route_body_max(const struct conn *c)
{
	uint32_t max = c->server->config->max_body;

	return c->route == NULL || (c->route->methods & ROUTE_SMALL_BODY) == 0 ||
	               max < ROUTE_SMALL_BODY_MAX
	           ? max
	           : ROUTE_SMALL_BODY_MAX;
}

enum verdict
route_check(struct conn *c, const struct http_request *rq)
{
	unsigned methods = path_methods(c->server, rq, &c->route);
	enum verdict v;

	c->caller = (struct caller){0};
	c->cors = cors_of(c->server, rq);
	if (rq->method == HTTP_OPTIONS && (methods & HTTP_OPTIONS) == 0 &&
	    (c->route != NULL || span_eq(rq->target, "*")))
		return VERDICT_OPTIONS;
	if (c->route == NULL)
		return not_found(c, rq);
	if ((methods & rq->method) == 0)
		return VERDICT_METHOD;
	if (c->route->scope != ROUTE_OPEN) {
		v = check_caller(c, rq);
		if (v != VERDICT_OK)
			return v;
	}
	if (expects_else(rq))
		return VERDICT_EXPECT;
	return VERDICT_OK;
}

static void
methods_text(unsigned methods, char text[static 64])
{
	static const struct {
		enum http_method method;
		const char *name;
	} names[] = {
	    {HTTP_GET, "GET, "},
	    {HTTP_HEAD, "HEAD, "},
	    {HTTP_POST, "POST, "},
	    {HTTP_PUT, "PUT, "},
	    {HTTP_DELETE, "DELETE, "},
	    {HTTP_PATCH, "PATCH, "},
	};

	text[0] = '\0';
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if ((methods & names[i].method) != 0)
			strcat(text, names[i].name);
	strcat(text, "OPTIONS");
}

void
route_refuse_key(struct conn *c, const char *message)
{
	const char *type =
	    c->route->id == ROUTE_ANTHROPIC ? "authentication_error" : "invalid_request_error";

	conn_header(c, "WWW-Authenticate", "Bearer");
	conn_error(c, 401, type, "invalid_api_key", NULL, "%s", message);
}

static void
refuse_scope(struct conn *c)
{
	char names[AUTH_SCOPES_LEN];

	auth_format_scopes(c->route->scope, names);
	conn_header(c, "WWW-Authenticate", "Bearer error=\"insufficient_scope\", scope=\"%s\"",
	    names);
	conn_error(c, 403, "permission_error", "insufficient_scope", NULL,
	    "this API key may not be used here: it lacks the scope \"%s\"", names);
}

void
route_refuse_model(struct conn *c)
{
	conn_error(c, 404,
	    c->route->id == ROUTE_ANTHROPIC ? "not_found_error" : "invalid_request_error",
	    "model_not_found", "model", "there is no model of that name here for this key");
}

/* 204; for a preflight of a page that may call us, with what it may send (Fetch standard). */
static void
answer_options(struct conn *c, const struct http_request *rq, const char *methods)
{
	struct span asked = http_header(rq, "access-control-request-headers");

	conn_header(c, "Allow", "%s", methods);
	if (c->cors != CORS_NONE && http_header(rq, "access-control-request-method").p != NULL) {
		conn_header(c, "Access-Control-Allow-Methods", "%s", methods);
		/* SDKs send headers of their own making; the request's list is as good as ours. */
		if (asked.p != NULL && asked.len > 0)
			conn_header(
			    c, "Access-Control-Allow-Headers", "%.*s", (int)asked.len, asked.p);
		else
			conn_header(c, "Access-Control-Allow-Headers", ALLOWED_HEADERS);
		conn_header(c, "Access-Control-Max-Age", "7200");
	}
	conn_reply(c, 204, NULL, NULL, 0);
}

void
route_refuse(struct conn *c, const struct http_request *rq)
{
	static const char *const refused = "invalid_request_error";
	const struct route *found;
	char methods[64];

	methods_text(path_methods(c->server, rq, &found), methods);
	switch ((enum verdict)c->verdict) {
	case VERDICT_NOT_FOUND:
		conn_error(c, 404, refused, "not_found", NULL, "there is nothing at this path");
		break;
	case VERDICT_METHOD:
		/* A method that we don't know: who knows what it takes for its body. */
		if (rq->method == HTTP_OTHER)
			c->keep_alive = false;
		conn_header(c, "Allow", "%s", methods);
		conn_error(c, 405, refused, "method_not_allowed", NULL, "this path takes %s only",
		    methods);
		break;
	case VERDICT_OPTIONS:
		if (found == NULL)
			methods_text(HTTP_GET | HTTP_HEAD | HTTP_POST | HTTP_DELETE, methods);
		answer_options(c, rq, methods);
		break;
	case VERDICT_KEY_MISSING:
		route_refuse_key(c,
		    "no API key: send \"Authorization: Bearer KEY\" or \"x-api-key: KEY\"");
		break;
	case VERDICT_KEY_AMBIGUOUS:
		route_refuse_key(c, "more than one API key: send one header with one key");
		break;
	case VERDICT_TOKEN:
		route_refuse_key(c, "this token is not valid here");
		break;
	case VERDICT_TOKEN_ACCOUNT:
		route_refuse_key(c, "there is no account of this token's subject");
		break;
	case VERDICT_SCOPE:
		refuse_scope(c);
		break;
	case VERDICT_USER:
		conn_error(c, 400, refused, "invalid_request", AUTH_USER_HEADER,
		    AUTH_USER_HEADER " has to be there once and to have 1 to %d of A-Z a-z 0-9 . _ "
		    ": @ -", ACCOUNT_ID_MAX - (int)sizeof SIGHT_PREFIX + 1);
		break;
	case VERDICT_KEY_UNKNOWN:
		route_refuse_key(c, "unknown API key");
		break;
	case VERDICT_KEY_REVOKED:
		route_refuse_key(c, "this API key was revoked");
		break;
	case VERDICT_KEY_EXPIRED:
		route_refuse_key(c, "this API key or token has expired");
		break;
	case VERDICT_LIMITED:
		refuse_stranger(c, rq);
		break;
	case VERDICT_EXPECT:
		conn_error(c, 417, refused, "expectation_failed", NULL,
		    "only \"Expect: 100-continue\" is understood");
		break;
	case VERDICT_OK:
	case VERDICT_TOO_LARGE:
		conn_error(c, 413, refused, "body_too_large", NULL,
		    "the body is larger than %u bytes",
		    route_body_max(c));
		break;
	}
}

void
route_cors(const struct conn *c, struct buf *head)
{
	const struct config *config = c->server->config;

	/* Caches must not give one origin's answer to another; also where there was no Origin. */
	if (config->origin_count > 0 && !c->server->cors_any)
		buf_str(head, "Vary: Origin\r\n");
	if (c->cors == CORS_NONE)
		return;
	buf_str(head, "Access-Control-Allow-Origin: ");
	buf_str(head, c->cors == CORS_ANY ? "*" : config->origins[c->cors]);
	buf_str(head, "\r\nAccess-Control-Expose-Headers: " EXPOSED "\r\n");
}
