#ifndef DAEMON_JOURNAL_HISTORY_H
#define DAEMON_JOURNAL_HISTORY_H

/*
 * Conversations: each account's sessions, and in each of them its turns (what a user said, and the
 * answer).  They stand in journal.mdb, and the commit that makes a RESERVE, MARK, SETTLE, ...
 * durable writes them too: there is nothing to catch up with, and no rebuild or compaction touches
 * them.  docs/history.md tells why.  Numbers in keys are big-endian, so that they sort.
 *
 *   history_sessions  account, session           -> struct history_session_row
 *   history_list      account, its latest turn   -> struct history_list_row
 *   history_counts    account                    -> how many sessions (32 bits)
 *   history_turns     account, session, turn     -> struct history_turn_row, up to model_len
 *   history_texts     turn, sequence             -> the same sequence: what was said, as JSON;
 *                                                   later ones: the answer, piece by piece
 *   history_open      slot (32 bits)             -> struct history_open_row, while its hold is open
 *   history_gone      account, session           -> a sequence (64 bits): turns up to there are
 *                                                   forgotten, and are still to be removed
 *
 * A turn's number is its RESERVE's sequence.  A change of a row's shape must go on reading the former
 * ones: nothing can rebuild them.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "daemon/journal.h"

#define HISTORY_MODEL_MAX 128
#define HISTORY_DROPS_MAX 64

struct history_name {
	uint8_t session[16];
	uint32_t account;
};

/* Writing: the keeper. */

struct history_rules {
	bool on;                /* false: nothing is added */
	uint32_t keep_sessions; /* of an account, the latest; 0: any number */
};

/* Before the first commit. */
void journal_history_rules(struct journal *, const struct history_rules *);
/*
 * Staged for the next commit like a compaction's: sessions that are to be forgotten, at most
 * HISTORY_DROPS_MAX; and to remove at most so many rows of what is forgotten.
 */
void journal_stage_drop(struct journal *, const struct history_name *);
void journal_stage_sweep(struct journal *, size_t max);
/* Is there anything forgotten that was not removed yet, as of the last commit? */
bool journal_history_left(const struct journal *);

/* A walk over all accounts' sessions, the newest of each first, in steps.  Starts as {0}. */
struct history_walk {
	uint8_t at[12]; /* the last one's place in history_list */
	bool begun;
	uint32_t account; /* of the last one, and how many of it were seen */
	uint32_t seen;
	struct history_name drop[HISTORY_DROPS_MAX];
	size_t drops;
};

/*
 * At most `rows` further on: `drop` is filled with those whose latest turn was before before_us, and
 * those beyond the newest `keep` (UINT32_MAX: any number) of their account.  1; 0: it was the last
 * step; -1: it cannot be read.
 */
int journal_history_walk(struct journal *, struct history_walk *, size_t rows, uint64_t before_us,
    uint32_t keep) __attribute__((warn_unused_result));

/* Reading: any process, one snapshot of one account's. */

struct history_session {
	uint8_t id[16];
	uint64_t first, latest; /* turns; `latest` is its place in the list */
	uint64_t created_us, updated_us;
	uint32_t turns;
};

struct history_turn {
	uint64_t sequence;
	uint8_t stream_id[16], message_id[16];
	uint64_t opened_us, ended_us; /* ended_us 0: it runs */
	int64_t charge;
	uint32_t generation;
	uint32_t prompt, completion; /* tokens; at the end: what was charged for */
	uint8_t proc;
	uint8_t outcome;  /* enum journal_outcome */
	uint8_t short_of; /* enum journal_short */
	bool lost;       /* it neither runs nor ended: history was off meanwhile */
	uint8_t model_len;
	char model[HISTORY_MODEL_MAX]; /* no NUL; cut if longer */
};

struct history_view;

/* NULL with errno.  Keep it short: it pins pages of the journal while it lasts. */
struct history_view *history_view_new(struct journal_reader *, uint32_t account)
    __attribute__((warn_unused_result));
void history_view_free(struct history_view *);
/* All of these: 1, 0: there is none, -1 with errno. */
int history_session_get(struct history_view *, const uint8_t id[static 16],
    struct history_session *) __attribute__((warn_unused_result));
/* The latest one whose place is below `before`. */
int history_session_before(struct history_view *, uint64_t before, struct history_session *)
    __attribute__((warn_unused_result));
/* A session's last turn below `before`. */
int history_turn_before(struct history_view *, const struct history_session *, uint64_t before,
    struct history_turn *) __attribute__((warn_unused_result));
/* What was said, as JSON; valid as long as the view. */
int history_said(struct history_view *, uint64_t turn, struct span *)
    __attribute__((warn_unused_result));
/* Append what is there of the answer (NULL: count it alone); *len is its length. */
int history_answer(struct history_view *, uint64_t turn, struct buf *, size_t *len)
    __attribute__((warn_unused_result));

#endif
