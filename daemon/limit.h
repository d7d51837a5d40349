#ifndef DAEMON_LIMIT_H
#define DAEMON_LIMIT_H

/*
 * What an account and a key may do in a minute: requests and tokens (docs/limits.md).  The
 * account's own limits, or the configuration's where it has none, and beside them the key's: both
 * must allow a request.  Worker.
 *
 * A request takes itself and its estimated tokens (the prompt and what it reserves for) before it
 * reserves.  Tokens that it produces beyond those are taken as it goes on, and at its end what was
 * taken is made what was charged for.  How many streams it may have at once is the ledger's to
 * say (struct hold_terms, shm/seat.h).
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/auth.h"
#include "daemon/config.h"
#include "daemon/conn.h"
#include "shm/account.h"
#include "shm/limit.h"

/* The tokens that a request has taken; kept with its stream until it is settled. */
struct limit_taken {
	uint64_t taken_ns;
	struct limit_share {
		struct limit *word;  /* NULL: nothing */
		uint32_t per_minute; /* the limit that they were taken from */
		uint64_t tokens;
	} share[2]; /* of the account, of the key */
};

struct limit_verdict {
	bool allowed;
	bool by_tokens;                      /* what refused it; else the requests */
	struct limit_state requests, tokens; /* the tighter of two; limit 0: there is none */
};

/*
 * Take a request and its tokens, or nothing: the prompt, and of the completion what it reserves,
 * but no more in all than the limit.  (Who may use more than that needs all of it.)
 */
void limit_request_take(const struct config *, const struct caller *, uint32_t prompt,
    uint32_t completion, struct limit_taken *, struct limit_verdict *);
/*
 * To read a long body takes a while, and who has no request left is refused in the end anyway: true
 * if this one may be read.  False: answered, with 429.
 */
#define LIMIT_LONG_BODY 16384
bool limit_may_read(const struct config *, struct conn *, size_t body_len);
/* A request that reserves nothing counts as one, as far as there is one left. */
void limit_request_count(const struct config *, const struct caller *);
/* It has used so many tokens by now: more than were taken are taken too. */
void limit_request_used(struct limit_taken *, uint64_t tokens);
/* It is over, and so many tokens are what it used: the rest is given back.  Again: nothing. */
void limit_request_settle(struct limit_taken *, uint64_t tokens);
/* Open holds that the account may have at once; 0: any number. */
uint32_t limit_account_streams(const struct config *, const struct account *);

/* The coming reply's x-ratelimit-* headers. */
void limit_headers(struct conn *, const struct limit_verdict *);
/* Answer 429, with Retry-After.  The headers are the caller's. */
void limit_refuse(struct conn *, const struct limit_verdict *);
void limit_refuse_streams(struct conn *, const char *whose, uint32_t most);

/* A time as OpenAI writes it: "6m0s", "1.5s", "12ms"; rounded up to milliseconds. */
#define LIMIT_TIME_MAX 32
void limit_time(char text[static LIMIT_TIME_MAX], uint64_t ns);

#endif
