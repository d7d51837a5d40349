#ifndef DAEMON_UPSTREAM_H
#define DAEMON_UPSTREAM_H

/*
 * Calls to providers, over libcurl's connections on the worker's event loop.  Knows HTTP and
 * nothing of what the bodies mean.  Worker.
 *
 * A target is one of a provider's base URLs with one of its keys; upstream_pick says which to
 * call.  Callbacks come from the event loop, never from inside an upstream_ or call_ function.
 * After end() the call is freed.
 *
 * A view is the providers as one config has them.  A stream keeps the view that it began with:
 * its provider stays as it was, whatever is reloaded.  Views share what did not change, with its
 * connections and breakers; what no present view has any more keeps no connection for later.
 */
#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/breaker.h"
#include "daemon/buf.h"
#include "daemon/config.h"

#define UPSTREAM_TARGETS_MAX (CONFIG_URLS_MAX * CONFIG_KEYS_MAX) /* of a provider */

struct upstream;
struct upstream_view;
struct call;

enum call_result {
	CALL_COMPLETE,  /* the whole body came, by the rules of HTTP */
	CALL_TRUNCATED, /* the connection ended in mid-body */
	CALL_CONNECT,   /* no connection: refused, no route, no such host; or closed unanswered */
	CALL_TLS,       /* its certificate is not to be trusted, or no TLS came about */
	CALL_TIMEOUT,   /* the connection took too long */
	CALL_PROTOCOL,  /* what came is not HTTP */
};

struct call_ops {
	/* Status and media type (lower case, without parameters; "" if none); once per call. */
	void (*head)(void *arg, int status, const char *media_type, int64_t retry_after);
	/* Bytes of the body, transfer coding removed. */
	void (*data)(void *arg, const char *, size_t);
	/* All that was readable just now has been given: flush what it led to. */
	void (*flush)(void *arg);
	void (*end)(void *arg, enum call_result, const char *why);
};

struct upstream *upstream_new(struct event_base *, const struct config *)
    __attribute__((warn_unused_result));
/* Another config is in force; it is kept for as long as its view.  -1 without memory: nothing has
 * changed. */
int upstream_renew(struct upstream *, const struct config *) __attribute__((warn_unused_result));
/* The present view, for one more who needs it. */
struct upstream_view *upstream_view(struct upstream *);
const struct config *upstream_view_config(const struct upstream_view *);
void upstream_view_free(struct upstream_view *); /* NULL is allowed */
/* All calls must have ended or been cancelled, and all views but the present one be freed. */
void upstream_free(struct upstream *);
/* The file of certificates that libcurl trusts by default; NULL: it has none. */
const char *upstream_ca_bundle(void);
size_t upstream_calls(const struct upstream *);

/*
 * The number (from 0) of a provider's target to call now: one that its breaker allows and that is
 * not in `tried` (a bit each), if there is one; the one with the fewest calls under way, in turn
 * where they are equal.  -1 if no breaker allows a call; *until_us is when one may again.
 */
int upstream_pick(struct upstream_view *, int provider, uint64_t tried, uint64_t *until_us);
/* The breaker of a target; whoever calls tells it how that went. */
struct breaker *upstream_breaker(struct upstream_view *, int provider, int target);

/*
 * POST `body` to a provider, at this path below its base URL, a literal; NULL: where its dialect
 * has chat.  The body stays the caller's and
 * must not change before head() or end(), or the call is cancelled.  `headers`: more lines for
 * the head, each with its CR LF; copied.  NULL when there is no memory left.
 */
struct call *upstream_post(struct upstream_view *, int provider, int target, const char *path,
    const struct buf *body, struct span headers, const struct call_ops *, void *arg)
    __attribute__((warn_unused_result));
/* Stop reading; what is read already (some 32 KB at most) still comes. */
void call_pause(struct call *);
void call_resume(struct call *);
/*
 * Its answer is well under way: from now on it may be read together with others, up to
 * flush_ms_max later (daemon/gather.h).
 */
void call_gather(struct call *);
bool call_paused(const struct call *);
/* Close the connection to the provider; no callback comes any more.  Allowed in callbacks. */
void call_cancel(struct call *);

#endif
