#ifndef DAEMON_RETRY_H
#define DAEMON_RETRY_H

/*
 * What a provider's failure means: whether to ask again and whom, how long to wait, and what the
 * client is told.  Pure.  docs/upstream.md has the table.
 */
#include <stdbool.h>
#include <stdint.h>

/* Ways to fail, as tolld_upstream_errors_total and an error's "kind" name them. */
enum upstream_kind {
	UPSTREAM_CONNECT, /* refused, no route, no such host, closed before its answer */
	UPSTREAM_TLS,     /* its certificate, or no common TLS */
	UPSTREAM_CONNECT_TIMEOUT,
	UPSTREAM_FIRST_TOKEN_TIMEOUT,
	UPSTREAM_IDLE_TIMEOUT,
	UPSTREAM_STREAM_TIMEOUT,
	UPSTREAM_REQUEST_TIMEOUT, /* an answer in one piece */
	UPSTREAM_AUTH,       /* 401, 402, 403: our key, or its account */
	UPSTREAM_RATE_LIMIT, /* 429 */
	UPSTREAM_STATUS,     /* another status that is not 200 */
	UPSTREAM_SERVER,     /* 5xx */
	UPSTREAM_PROTOCOL,   /* not HTTP, or a 200 that is no event stream */
	UPSTREAM_TRUNCATED,  /* broke off, or ended without its end mark */
	UPSTREAM_REPORTED,   /* an error event in its stream */
	UPSTREAM_TOO_LONG,   /* an answer in one piece that is more than is taken here */
	UPSTREAM_KINDS
};

enum retry_verdict {
	RETRY_HERE,  /* it may work a moment later */
	RETRY_OTHER, /* not there, but with another URL, key or provider */
	RETRY_NEVER, /* it is the request's fault */
};

/* Here and not in retry.c: the counters need no more of it. */
static inline const char *
retry_kind_text(enum upstream_kind kind)
{
	static const char *const text[UPSTREAM_KINDS] = {
	    [UPSTREAM_CONNECT] = "connect",
	    [UPSTREAM_TLS] = "tls",
	    [UPSTREAM_CONNECT_TIMEOUT] = "connect_timeout",
	    [UPSTREAM_FIRST_TOKEN_TIMEOUT] = "first_token_timeout",
	    [UPSTREAM_IDLE_TIMEOUT] = "idle_timeout",
	    [UPSTREAM_STREAM_TIMEOUT] = "stream_timeout",
	    [UPSTREAM_REQUEST_TIMEOUT] = "request_timeout",
	    [UPSTREAM_AUTH] = "auth",
	    [UPSTREAM_RATE_LIMIT] = "rate_limit",
	    [UPSTREAM_STATUS] = "status",
	    [UPSTREAM_SERVER] = "server_error",
	    [UPSTREAM_PROTOCOL] = "protocol",
	    [UPSTREAM_TRUNCATED] = "truncated",
	    [UPSTREAM_REPORTED] = "error_event",
	    [UPSTREAM_TOO_LONG] = "too_long",
	};

	return kind < UPSTREAM_KINDS ? text[kind] : "unknown";
}

/* The kind of a status that is not 200. */
enum upstream_kind retry_kind_of_status(int status);
/* Before the first token.  status: the provider's, 0 if none came. */
enum retry_verdict retry_verdict(enum upstream_kind, int status);
/* Does it speak against the provider (and not only against our key, or the request)? */
bool retry_blames(enum upstream_kind, int status);
/* How long to wait before the nth attempt after the first (n from 1); random: any 32 bits. */
uint64_t retry_delay_us(unsigned n, uint32_t random);
/* Would the same request fail again, whenever its client asks? */
bool retry_is_final(enum upstream_kind, int status);
/* The status and the code for the client, before the first token. */
int retry_http_status(enum upstream_kind);
const char *retry_error_code(enum upstream_kind);

#endif
