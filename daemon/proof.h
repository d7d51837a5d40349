#ifndef DAEMON_PROOF_H
#define DAEMON_PROOF_H

/*
 * The journal proved: its checkpoint loaded and held against its hash, then each record judged by
 * the keeper's own rules (books_check) and entered into books of its own, and the chain of all
 * batches recomputed.  For an audit, and for a compaction, which removes nothing that was not
 * proved.  Admin process, and the keeper's helper; out of memory in the books is fatal.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/books.h"
#include "daemon/checkpoint.h"
#include "daemon/journal.h"

struct proof;

/* Proof on one snapshot of the journal.  NULL with errno. */
struct proof *proof_new(struct journal_reader *) __attribute__((warn_unused_result));
void proof_free(struct proof *);

enum proof_step {
	PROOF_MORE, /* go on */
	PROOF_END,  /* nothing more, and all of it is right */
	PROOF_DIFFERS
};

/* Before anything else: this is to be the chain's link after that record. */
void proof_expect(struct proof *, uint64_t sequence, const uint8_t link[static JOURNAL_LINK_LEN]);

/* So many pieces of the checkpoint; PROOF_END: it is loaded, or there is none. */
enum proof_step proof_load(struct proof *, uint32_t max_pieces);
/* The next record.  PROOF_END: the end of the snapshot, with nothing left over. */
enum proof_step proof_record(struct proof *);
/* Is a batch at its end? */
bool proof_whole(const struct proof *);
/* Then: go on with a new snapshot, so that the old one's pages can be used again.  -1 with errno:
 * it is of no more use. */
int proof_renew(struct proof *) __attribute__((warn_unused_result));

const struct books *proof_books(const struct proof *);
/* Drop refs that are over at that time. */
void proof_forget(struct proof *, uint64_t now_us);
const struct journal_base *proof_base(const struct proof *);
const struct checkpoint_pasts *proof_pasts(const struct proof *);
uint64_t proof_sequence(const struct proof *); /* the last one entered */
uint64_t proof_last(const struct proof *);     /* of the snapshot */
/* Of the last whole batch. */
const uint8_t *proof_link(const struct proof *);
/* After PROOF_DIFFERS: what differs first, naming the record or batch. */
const char *proof_difference(const struct proof *);

#endif
