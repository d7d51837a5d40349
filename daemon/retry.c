/* What a provider's failure means.  Pure. */
#include "daemon/retry.h"

#define DELAY_US (250 * UINT64_C(1000))
#define DOUBLINGS_MAX 5 /* 8 s */

enum upstream_kind
retry_kind_of_status(int status)
{
	if (status == 401 || status == 402 || status == 403)
		return UPSTREAM_AUTH;
	if (status == 429)
		return UPSTREAM_RATE_LIMIT;
	return status >= 500 ? UPSTREAM_SERVER : UPSTREAM_STATUS;
}

enum retry_verdict
retry_verdict(enum upstream_kind kind, int status)
{
	switch (kind) {
	case UPSTREAM_STATUS:
		/* 404, 405 and redirects come from the config's URL or model name; 408 and 425
		 * say themselves that it may be tried again; the rest is about the request. */
		if (status == 408 || status == 425)
			return RETRY_HERE;
		return status < 400 || status == 404 || status == 405 ? RETRY_OTHER : RETRY_NEVER;
	case UPSTREAM_SERVER:
		return status == 501 || status == 505 ? RETRY_OTHER : RETRY_HERE;
	case UPSTREAM_TLS:
	case UPSTREAM_AUTH:
	/* Asking a silent one again would use up the time that another one could answer in. */
	case UPSTREAM_CONNECT_TIMEOUT:
	case UPSTREAM_FIRST_TOKEN_TIMEOUT:
	case UPSTREAM_REQUEST_TIMEOUT:
		return RETRY_OTHER;
	case UPSTREAM_IDLE_TIMEOUT:
	case UPSTREAM_STREAM_TIMEOUT:
	/* It was made, and will be billed: as long again, and billed again. */
	case UPSTREAM_TOO_LONG:
		return RETRY_NEVER;
	default:
		return RETRY_HERE;
	}
}

bool
retry_blames(enum upstream_kind kind, int status)
{
	/* How long an answer gets is for its client to choose, but not for others. */
	return kind != UPSTREAM_AUTH && kind != UPSTREAM_RATE_LIMIT && kind != UPSTREAM_TOO_LONG &&
	       (kind != UPSTREAM_STATUS || status < 400);
}

bool
retry_is_final(enum upstream_kind kind, int status)
{
	/* Keys are for the operator to mend, not for clients to wait for. */
	return kind == UPSTREAM_AUTH || kind == UPSTREAM_TOO_LONG ||
	       (kind == UPSTREAM_STATUS && retry_verdict(kind, status) == RETRY_NEVER);
}

uint64_t
retry_delay_us(unsigned n, uint32_t random)
{
	unsigned doublings = n < 1 ? 0 : n - 1;
	uint64_t whole = DELAY_US << (doublings < DOUBLINGS_MAX ? doublings : DOUBLINGS_MAX);

	/* Half of it always, so that it is a pause; half by chance, so that those who failed
	 * together do not come back together. */
	return whole / 2 + (whole / 2 * (random >> 16) >> 16);
}

int
retry_http_status(enum upstream_kind kind)
{
	switch (kind) {
	case UPSTREAM_CONNECT_TIMEOUT:
	case UPSTREAM_FIRST_TOKEN_TIMEOUT:
	case UPSTREAM_IDLE_TIMEOUT:
	case UPSTREAM_STREAM_TIMEOUT:
	case UPSTREAM_REQUEST_TIMEOUT:
		return 504;
	case UPSTREAM_RATE_LIMIT:
		return 503;
	default:
		return 502;
	}
}

const char *
retry_error_code(enum upstream_kind kind)
{
	switch (retry_http_status(kind)) {
	case 504:
		return "upstream_timeout";
	case 503:
		return "overloaded";
	default:
		return "upstream_error";
	}
}
