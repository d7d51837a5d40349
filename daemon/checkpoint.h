#ifndef DAEMON_CHECKPOINT_H
#define DAEMON_CHECKPOINT_H

/*
 * A checkpoint of the journal: the books as of the end of one batch, which stand for all records
 * up to there.  A stream of bytes, cut into pieces (daemon/journal.h), whose SHA-256 stands in a
 * CHECKPOINT record and so in the chain:
 *
 *   struct checkpoint_head
 *   rows: struct checkpoint_row, key, value       tables as in daemon/books_rows.h
 *   checkpoints before this one, the oldest first: struct checkpoint_row, struct checkpoint_past
 *   struct checkpoint_row of CHECKPOINT_END, whose `len` is 0
 *
 * A change of any of this bumps CHECKPOINT_FORMAT, and the former one must still be read: nothing
 * can rebuild it.
 */
#include <stdint.h>

#include "daemon/books.h"
#include "daemon/buf.h"
#include "daemon/journal.h"

/* 1: with shorter rows of holds and keys; up to 2: prices of three kinds; up to 3: shorter rows of
 * keys; up to 4: shorter rows of accounts and holds */
#define CHECKPOINT_FORMAT 5
#define CHECKPOINT_SIX_PRICES 3

struct checkpoint_head {
	uint32_t format, pad;
	uint64_t sequence, time_us; /* as in struct journal_base */
	uint8_t link[JOURNAL_LINK_LEN];
};

struct checkpoint_row {
	uint8_t table; /* enum books_table, or: */
	uint8_t key_len;
	uint16_t pad;
	uint32_t len; /* of the value */
};
#define CHECKPOINT_PAST 0x80
#define CHECKPOINT_END 0xff

/* What is left of a checkpoint that another one has taken the place of. */
struct checkpoint_past {
	uint64_t sequence;
	uint8_t link[JOURNAL_LINK_LEN], hash[JOURNAL_LINK_LEN];
};

struct checkpoint_pasts {
	struct checkpoint_past *past;
	uint32_t count;
};

/* Write one to a file; `pasts` are the checkpoints before it.  -1 with errno. */
int checkpoint_write(int fd, const struct books *, const struct checkpoint_head *,
    const struct checkpoint_pasts *pasts) __attribute__((warn_unused_result));

/*
 * Reading the checkpoint of a snapshot into empty books, and holding it against its hash and the
 * record that binds it.  In steps, since it may be large.
 */
struct checkpoint_load;

/* The cursor stays the caller's, and is needed until the end.  NULL: out of memory. */
struct checkpoint_load *checkpoint_load_new(struct journal_cursor *, struct books *)
    __attribute__((warn_unused_result));
/* 1: go on; 0: all of it is in the books and is as it was bound; -1 with *why. */
int checkpoint_load_step(struct checkpoint_load *, uint32_t max_pieces, const char **why)
    __attribute__((warn_unused_result));
/* The checkpoints before it; valid until the free. */
const struct checkpoint_pasts *checkpoint_load_pasts(const struct checkpoint_load *);
void checkpoint_load_free(struct checkpoint_load *);

#endif
