/*
 * Making a checkpoint.  Runs in a helper process of the keeper, a fork that opens the journal for
 * itself: nobody waits for it, and if it runs out of memory nobody but it dies.
 *
 * It proves what it is about to replace, with the same code as an audit.  So a journal that was
 * damaged or changed keeps the evidence.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "daemon/compact.h"
#include "daemon/proof.h"
#include "daemon/title.h"

#define HELPER_NICE 10
/* Free on the disk: twice what comes, and so much. */
#define ROOM_BYTES (UINT64_C(64) << 20)

/* Between two snapshots: as long as one lasts, the pages that commits free are not used again. */
#define RENEW_RECORDS 16384
#define LOAD_PIECES 64

static void
complain(struct compact_report *r, const char *what, const char *why)
{
	(void)snprintf(r->why, sizeof r->why, "%s: %s", what, why);
}

/*
 * The last batch of which all records, and all before, may go.  By the records' own times: they
 * are the senders', so they need not rise, and the first one that is too late ends it.  -1, or
 * with 0 the report's sequence and time.
 */
static int
find_end(const struct compact_order *o, struct journal_reader *journal, struct compact_report *r)
{
	uint64_t at = r->sequence, latest = r->time_us, last;
	struct journal_batch batch;
	struct journal_entry e;

	for (;;) {
		struct journal_cursor *c = journal_cursor_new(journal, at + 1);
		unsigned n = 0;
		int more = 1;

		if (c == NULL)
			return -1;
		while (n < RENEW_RECORDS && (more = journal_cursor_batch(c, &last, &batch)) > 0) {
			for (; at < last && (more = journal_cursor_next(c, &e)) > 0; n++) {
				if (e.record.time_us > latest)
					latest = e.record.time_us;
				at = e.sequence;
			}
			if (more <= 0 || latest >= o->before_us || at > o->up_to || at != last)
				break;
			r->sequence = at;
			r->time_us = latest;
		}
		journal_cursor_free(c);
		if (more < 0)
			return -1;
		if (more == 0 || n < RENEW_RECORDS)
			return 0;
	}
}

/* Prove the journal up to there; false with the report's `why`. */
static bool
prove(const struct compact_order *o, struct proof *p, struct compact_report *r)
{
	uint64_t from = proof_base(p)->sequence;
	enum proof_step step;
	unsigned n = 0;

	while ((step = proof_load(p, LOAD_PIECES)) == PROOF_MORE)
		continue;
	atomic_store_explicit(o->of, r->sequence - from, memory_order_relaxed);
	while (step != PROOF_DIFFERS && proof_sequence(p) < r->sequence) {
		step = proof_record(p);
		if (step == PROOF_END) {
			complain(r, "the journal", "it is shorter than it was");
			return false;
		}
		/* Relaxed: a report. */
		atomic_store_explicit(o->done, proof_sequence(p) - from, memory_order_relaxed);
		if (step == PROOF_MORE && ++n >= RENEW_RECORDS && proof_whole(p)) {
			n = 0;
			if (proof_renew(p) < 0) {
				complain(r, "journal.mdb cannot be read", strerror(errno));
				return false;
			}
		}
	}
	if (step != PROOF_DIFFERS)
		return true;
	complain(r, "the journal does not prove, nothing is removed (see tollctl audit)",
	    proof_difference(p));
	return false;
}

/* The one that is replaced is remembered by its hash and link. */
static bool
add_past(const struct proof *p, struct checkpoint_pasts *all)
{
	const struct checkpoint_pasts *before = proof_pasts(p);
	const struct journal_base *base = proof_base(p);

	all->past = calloc((size_t)before->count + 1, sizeof *all->past);
	if (all->past == NULL)
		return false;
	if (before->count > 0)
		memcpy(all->past, before->past, before->count * sizeof *all->past);
	all->count = before->count;
	if (base->sequence > 0) {
		struct checkpoint_past *past = &all->past[all->count++];

		past->sequence = base->sequence;
		memcpy(past->link, base->link, sizeof past->link);
		memcpy(past->hash, base->hash, sizeof past->hash);
	}
	return true;
}

static void
put(struct proof *p, int file, struct compact_report *r)
{
	struct checkpoint_head head = {
	    .format = CHECKPOINT_FORMAT, .sequence = r->sequence, .time_us = r->time_us};
	struct checkpoint_pasts pasts = {0};
	struct stat st;

	proof_forget(p, r->time_us);
	memcpy(r->link, proof_link(p), sizeof r->link);
	memcpy(head.link, r->link, sizeof head.link);
	if (!add_past(p, &pasts))
		complain(r, "the checkpoint cannot be made", "out of memory");
	else if (checkpoint_write(file, proof_books(p), &head, &pasts) < 0 || fstat(file, &st) < 0)
		complain(r, "the checkpoint cannot be written", strerror(errno));
	else {
		r->bytes = (uint64_t)st.st_size;
		r->ok = true;
	}
	free(pasts.past);
}

void
compact_make(const struct compact_order *o, int file, struct compact_report *r)
{
	struct journal_reader *journal;
	struct proof *p = NULL;
	const char *why = NULL;

	memset(r, 0, sizeof *r);
	journal = journal_reader_open(o->state_dir, &why);
	if (journal == NULL || (p = proof_new(journal)) == NULL) {
		complain(r, "journal.mdb cannot be read", why != NULL ? why : strerror(errno));
	} else {
		r->sequence = proof_base(p)->sequence;
		r->time_us = proof_base(p)->time_us;
		if (find_end(o, journal, r) < 0)
			complain(r, "journal.mdb cannot be read", strerror(errno));
		else if (r->sequence == proof_base(p)->sequence)
			r->ok = true;
		else if (prove(o, p, r))
			put(p, file, r);
	}
	proof_free(p);
	journal_reader_close(journal);
}

static void help(const struct compact_order *, int file, int out, pid_t parent)
    __attribute__((noreturn));

static void
help(const struct compact_order *o, int file, int out, pid_t parent)
{
	struct compact_report report;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(1);
	title_set("tolld: checkpoint");
	(void)setpriority(PRIO_PROCESS, 0, HELPER_NICE);
	compact_make(o, file, &report);
	/* Smaller than a pipe's atomic write. */
	_exit(write(out, &report, sizeof report) == (ssize_t)sizeof report ? 0 : 1);
}

pid_t
compact_fork(const struct compact_order *o, int file, int *out)
{
	pid_t parent = getpid(), pid;
	int fds[2], saved;

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -1;
	pid = fork();
	saved = errno;
	if (pid == 0)
		help(o, file, fds[1], parent);
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		errno = saved;
		return -1;
	}
	*out = fds[0];
	return pid;
}

bool
compact_room(const char *state_dir, uint64_t bytes)
{
	struct statvfs fs;

	return statvfs(state_dir, &fs) < 0 ||
	       (uint64_t)fs.f_bavail * fs.f_frsize >= 2 * bytes + ROOM_BYTES;
}
