#ifndef DAEMON_STATE_H
#define DAEMON_STATE_H

/*
 * state.mdb in state_dir: a projection of the journal that can be read by key, and that can be
 * thrown away and rebuilt.  The keeper fills it beside the acknowledging path; workers and admin
 * read it.  It lags behind the journal by a moment; who needs it exact pushes a JOURNAL_SYNC.
 * Rows and databases are drawn in daemon/state_rows.h.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/books.h"
#include "daemon/buf.h"
#include "daemon/journal.h"
#include "shm/account.h"
#include "shm/journal_record.h"

/* A stream's row and text stay so long after its end; for a day if its request had a key. */
#define STATE_STREAM_KEPT_US (UINT64_C(3600) * 1000000)
#define STATE_KEYED_KEPT_US (24 * STATE_STREAM_KEPT_US)
#define STATE_MODEL_MAX 128
#define STATE_LABEL_MAX 256

/* How far the projection is. */
struct state_progress {
	uint64_t applied; /* accounts, holds, keys, refs and prices: exactly the journal up to here */
	uint64_t streams; /* streams and their texts */
};

/* Writing: the keeper. */
struct state;

/*
 * Open, or make anew if it is missing, of another version or damaged.  NULL with errno of the
 * disk and *why.  map_bytes 0: 64 GiB.
 */
struct state *state_open(const char *state_dir, size_t map_bytes, const char **why)
    __attribute__((warn_unused_result));
void state_close(struct state *);
/*
 * Fill empty books from the rows; -1: they don't fit together (remove it and rebuild).  Tell, if
 * it is not NULL, hears every STATE_TELL_ROWS rows how far it is, for it may take long.
 */
#define STATE_TELL_ROWS 1024
typedef void state_tell(void *arg, uint64_t done, uint64_t of);
int state_load(struct state *, struct books *, state_tell *, void *arg)
    __attribute__((warn_unused_result));
void state_remove(const char *state_dir);

#define STATE_FILE "state.mdb"
#define STATE_LOCK_FILE STATE_FILE "-lock"
/*
 * The lock file of a state.mdb that takes this one's place.  It is there before it is needed, so
 * that it can be on the list of files that a worker may open (daemon/sandbox.h).
 */
#define STATE_NEXT_LOCK_FILE STATE_LOCK_FILE ".next"
const struct state_progress *state_progress(const struct state *);
/*
 * Bringing it up to date is a job of three steps, so that the middle one, which waits for the
 * disk, can be another thread's: only one job at a time, and nobody else uses the file meanwhile.
 *
 *   state_take    who owns the books: copies of rows that they changed, some max_rows of them, and
 *                 true if these are all; else it is called again, when there is time.  What changes
 *                 meanwhile is taken once more.  When it is true the rows are the books as of sequence
 *                 `last`, and nothing else is on their list of changes
 *   state_write   one transaction: these rows, at most max_records records' worth of streams, and
 *                 what has expired at now_us.  Touches nothing but the file, the job and the
 *                 journal, of which it has a snapshot open meanwhile; logs nothing
 *   state_finish  who owns the books again: -1 with errno and a log line if that failed.  Then the
 *                 books' list of changes lacks the job's: close it and do not go on
 */
struct state_job;

struct state_order {
	uint64_t last;
	size_t max_rows, max_records;
	uint64_t now_us;
	bool sweep; /* forget dead readers, too */
};

struct state_job *state_job_new(void) __attribute__((warn_unused_result));
void state_job_free(struct state_job *);
/* Goes up as state_write gets on, but for its flush.  Any thread. */
uint64_t state_job_steps(const struct state_job *);
bool state_take(struct state_job *, struct books *, const struct state_order *)
    __attribute__((warn_unused_result));
void state_write(struct state *, struct state_job *, struct journal_reader *);
int state_finish(struct state *, const struct state_job *, struct books *)
    __attribute__((warn_unused_result));

/*
 * Reading: any process, an environment of its own, opened after the fork and once per process.
 * Every call is a short transaction.  A state.mdb that was rebuilt meanwhile is noticed.
 */
struct state_reader;

struct state_reader *state_reader_open(const char *state_dir, const char **why)
    __attribute__((warn_unused_result));
void state_reader_close(struct state_reader *);

struct stream_row {
	uint8_t stream_id[16], session_id[16], message_id[16];
	int64_t reserved; /* the hold, extends included */
	int64_t charge, uncollected;
	uint64_t opened_us, ended_us; /* ended_us 0: it runs */
	uint64_t reserve_seq, settle_seq; /* journal sequences; settle_seq 0: it runs */
	uint64_t text_len;
	uint32_t account, price;
	uint32_t prompt, cached, completion; /* at the end: what was charged for */
	uint32_t reasoning, cache_write;     /* of completion, of prompt */
	uint32_t generation;
	uint8_t proc;
	uint8_t outcome; /* enum journal_outcome */
	uint8_t voided;
	uint8_t model_len;
	uint8_t keyed; /* of its request's record; kept for a day then, like the key */
	uint8_t short_of; /* enum journal_short */
	uint8_t pad[2];
	char model[STATE_MODEL_MAX]; /* no NUL; cut if longer */
};

struct state_account {
	uint32_t number;
	int64_t balance, held, overdraft, charged, topups, adjustments, uncollected;
	uint32_t requests_per_minute, tokens_per_minute, concurrent_streams;
	uint32_t flags; /* ACCOUNT_CLOSED, ACCOUNT_FROZEN */
	struct state_budget {
		int64_t cap, used[2];
		uint16_t window[2]; /* as in struct books_used */
	} budget[BUDGETS];
	uint32_t id_len;
	char id[ACCOUNT_ID_MAX];
};

struct state_key {
	uint64_t key_id, expires_us, created_us;
	uint32_t account, scopes, flags; /* KEY_REVOKED */
	uint32_t label_len, models_len;
	char label[STATE_LABEL_MAX]; /* no NUL; cut if longer */
	char models[KEY_MODELS_TEXT_MAX]; /* as in struct journal_key; no NUL */
};

struct state_price {
	struct price price;
	uint32_t model_len;
	char model[STATE_MODEL_MAX];
};

/* All of these: 1, 0: there is none, -1 with errno. */

/* A stream's row and, appended to `text` (which may be NULL), its text so far. */
int state_stream_get(struct state_reader *, const uint8_t id[static 16], struct stream_row *,
    struct buf *text) __attribute__((warn_unused_result));
/* The first account whose number is at least `from`. */
int state_account_next(struct state_reader *, uint32_t from, struct state_account *)
    __attribute__((warn_unused_result));
/* The first key whose id is at least `from`. */
int state_key_next(struct state_reader *, uint64_t from, struct state_key *)
    __attribute__((warn_unused_result));
int state_price_get(struct state_reader *, uint32_t price_id, struct state_price *)
    __attribute__((warn_unused_result));
int state_applied(struct state_reader *, struct state_progress *)
    __attribute__((warn_unused_result));

/* A walk over the accounts of one snapshot, for an audit. */
struct state_walk;

struct state_walk *state_walk_new(struct state_reader *) __attribute__((warn_unused_result));
void state_walk_free(struct state_walk *);
const struct state_progress *state_walk_progress(const struct state_walk *);
int state_walk_next(struct state_walk *, struct state_account *)
    __attribute__((warn_unused_result));

#endif
