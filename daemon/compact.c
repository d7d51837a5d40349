/*
 * The keeper's part of a compaction: it decides, starts the helper, and does the rest in pieces
 * that go with its commits.  Keeper process.
 *
 * Nothing of it holds up who waits for a commit: what comes with one that somebody waits for is
 * little enough not to be noticed, and while nobody does there is a pause after each of our own.
 */
#include "daemon/compact.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/log.h"
#include "shm/clock.h"
#include "shm/fault.h"

/* With a commit that somebody waits for. */
#define PIECES_BUSY 4
#define REMOVE_TIMES 4 /* of the batch's records */
#define REMOVE_MIN 64
/* With one of our own: when nobody has come for a while.  Who comes back at once with its next
 * request would find every one of them before its own. */
#define IDLE_US 5000
#define PIECES_IDLE 8
#define REMOVE_IDLE 1024
/* How often it is looked whether keep_days is over, and how long after one that came to nothing. */
#define LOOK_US (UINT64_C(60) * 1000000)
#define LATER_US (UINT64_C(3600) * 1000000)
#define DAY_US (UINT64_C(86400) * 1000000)

enum phase { IDLE, MAKING, STORING, REMOVING };

_Static_assert(PIECES_BUSY <= PIECES_IDLE, "the buffer");

struct compact {
	enum phase phase;
	bool valid; /* REMOVING: a checkpoint was made, what was asked for is done with that */
	pid_t helper;
	bool reported;  /* the report is whole */
	int pipe, file; /* -1: none */
	struct compact_report report;
	struct journal_chain *hash;
	uint64_t stored, staged; /* bytes: committed, with the next commit */
	uint32_t piece;
	bool removing;     /* with the next commit */
	uint64_t wait_for; /* IDLE: state.mdb is to be as far before the helper starts; 0: none */
	uint64_t began_us, look_us; /* CLOCK_MONOTONIC */
	uint64_t busy_us;           /* when somebody's records were last committed */
	uint64_t removed;
	char buffer[PIECES_IDLE * JOURNAL_PIECE_LEN];
};

static struct region_compaction *
shown(const struct keeper *k)
{
	return &k->region->h->compaction;
}

/* Relaxed: the admin process reads them for a report. */
static void
show_step(struct keeper *k, uint32_t step, uint64_t of)
{
	struct region_compaction *s = shown(k);

	atomic_store_explicit(&s->done, 0, memory_order_relaxed);
	atomic_store_explicit(&s->of, of, memory_order_relaxed);
	atomic_store_explicit(&s->step, step, memory_order_relaxed);
}

static uint64_t
wanted(const struct keeper *k)
{
	/* Relaxed: the keeper's own, or a dead one's. */
	return atomic_load_explicit(&shown(k)->before_us, memory_order_relaxed);
}

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* What was asked for is through. */
static void
conclude(struct keeper *k, uint32_t result, const char *why)
{
	struct region_compaction *s = shown(k);
	struct compact *c = k->compact;

	close_fd(&c->file);
	c->phase = IDLE;
	c->valid = false;
	if (result == COMPACTION_FAILED)
		log_warnx("compaction: %s", why);
	if (result != COMPACTION_DONE)
		c->look_us = monotonic_us() + LATER_US;
	atomic_store_explicit(&s->step, 0, memory_order_relaxed);
	atomic_store_explicit(&s->before_us, 0, memory_order_relaxed);
	(void)snprintf(s->why, sizeof s->why, "%s", why);
	atomic_store_explicit(&s->result, result, memory_order_relaxed);
	/* Release: who sees the number finds the result and the text. */
	atomic_store_explicit(
	    &s->ended, atomic_load_explicit(&s->asked, memory_order_relaxed), memory_order_release);
}

/*
 * Nothing is to be removed.  What was asked of a keeper before us may be through all the same: it
 * died after its last removal.
 */
static void
resume_nothing(struct keeper *k)
{
	struct region_compaction *s = shown(k);

	atomic_store_explicit(&s->step, 0, memory_order_relaxed);
	if (wanted(k) == 0 && atomic_load_explicit(&s->asked, memory_order_relaxed) !=
	                          atomic_load_explicit(&s->ended, memory_order_relaxed))
		conclude(k, COMPACTION_DONE, "");
}

void
compact_begin(struct keeper *k)
{
	struct compact *c = calloc(1, sizeof *c);

	if (c == NULL || (c->hash = journal_chain_new()) == NULL)
		fatal("keeper: compaction");
	c->pipe = c->file = -1;
	k->compact = c;
	/* If that cannot be read, a commit will say so. */
	if (journal_leftovers(k->journal) != 0) {
		c->phase = REMOVING;
		show_step(k, 3, 0);
	} else
		resume_nothing(k);
}

/* End the helper, and be sure that it is gone. */
static void
end_helper(struct compact *c)
{
	close_fd(&c->pipe);
	if (c->helper <= 0)
		return;
	(void)kill(c->helper, SIGKILL);
	while (waitpid(c->helper, NULL, 0) < 0 && errno == EINTR)
		continue;
	c->helper = 0;
}

void
compact_end(struct keeper *k)
{
	struct compact *c = k->compact;

	if (c == NULL)
		return;
	end_helper(c);
	close_fd(&c->file);
	journal_chain_free(c->hash);
	free(c);
	k->compact = NULL;
}

enum ring_status
compact_ask(struct keeper *k, int64_t before_us, int64_t *number)
{
	struct region_compaction *s = shown(k);
	uint64_t asked = atomic_load_explicit(&s->asked, memory_order_relaxed);

	*number = (int64_t)asked;
	/* Of a keeper that died before it had published its answer; or of two who want the same. */
	if (before_us > 0 && wanted(k) == (uint64_t)before_us)
		return RING_APPLIED;
	if (wanted(k) != 0 || atomic_load_explicit(&s->ended, memory_order_relaxed) != asked)
		return RING_EXISTS;
	if (before_us <= 0)
		return RING_RANGE;
	*number = (int64_t)asked + 1;
	atomic_store_explicit(&s->asked, asked + 1, memory_order_relaxed);
	atomic_store_explicit(&s->before_us, (uint64_t)before_us, memory_order_relaxed);
	return RING_APPLIED;
}

/* MAKING. */

/*
 * Nothing that somebody may still need: what is younger than the shortest time that anybody may
 * repeat a request, and the records of open holds.  (A hold's other records are later than its
 * reserve.)
 */
static uint64_t
time_limit(const struct keeper *k)
{
	uint64_t before = wanted(k), now = keeper_realtime_us();
	uint64_t keep = k->heritage->config->journal.keep_min * UINT64_C(1000000);

	if (before > now - keep)
		before = now - keep;
	for (uint32_t slot = 0; slot < books_slots(k->books); slot++) {
		const struct books_hold *h = books_hold(k->books, slot);

		if (h->open && h->opened_us < before)
			before = h->opened_us;
	}
	return before;
}

static void
start_helper(struct keeper *k)
{
	const struct state_progress *p = state_progress(k->state);
	struct compact *c = k->compact;
	struct compact_order order = {.state_dir = k->heritage->config->state_dir,
	    .before_us = time_limit(k),
	    /* Not what state.mdb does not have: it is filled from the records. */
	    .up_to = p->streams < p->applied ? p->streams : p->applied,
	    .done = &shown(k)->done,
	    .of = &shown(k)->of};

	c->began_us = monotonic_us();
	c->wait_for = 0;
	c->removed = 0;
	/* In memory: a file beside the journal would be flushed with it by some file systems, while
	 * somebody waits for a commit. */
	c->file = memfd_create("checkpoint", MFD_CLOEXEC);
	if (c->file < 0 || (c->helper = compact_fork(&order, c->file, &c->pipe)) < 0) {
		char why[COMPACT_WHY_LEN];

		c->helper = 0;
		(void)snprintf(
		    why, sizeof why, "the helper cannot be started: %s", strerror(errno));
		conclude(k, COMPACTION_FAILED, why);
		return;
	}
	c->phase = MAKING;
	show_step(k, 1, 0);
}

/*
 * Has the helper ended?  Not waited for: it has as much memory to give back as the keeper has,
 * which takes it a while.
 */
static void
collect(struct keeper *k)
{
	struct compact *c = k->compact;

	if (c->pipe >= 0) {
		ssize_t len = read(c->pipe, &c->report, sizeof c->report);

		if (len < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		c->reported = len == (ssize_t)sizeof c->report;
		close_fd(&c->pipe);
	}
	if (waitpid(c->helper, NULL, WNOHANG) == 0)
		return;
	c->helper = 0;
	if (!c->reported) {
		conclude(k, COMPACTION_FAILED, "the helper died");
		return;
	}
	c->report.why[sizeof c->report.why - 1] = '\0';
	if (!c->report.ok)
		conclude(k, COMPACTION_FAILED, c->report.why);
	else if (c->report.sequence <= journal_base(k->journal)->sequence ||
	         c->report.sequence > state_progress(k->state)->applied)
		conclude(k, COMPACTION_NOTHING, "");
	else if (!compact_room(k->heritage->config->state_dir, c->report.bytes))
		conclude(k, COMPACTION_FAILED, "the disk has no room for the checkpoint");
	else {
		FAULT("compact.made");
		c->phase = STORING;
		c->stored = c->staged = 0;
		c->piece = 0;
		journal_chain_start(c->hash);
		show_step(k, 2, c->report.bytes);
	}
}

/* STORING. */

/* All pieces are in, or come with this commit: the record that makes them the checkpoint. */
static void
stage_record(struct keeper *k)
{
	struct compact *c = k->compact;
	struct journal_base base = {.sequence = c->report.sequence,
	    .record = journal_last(k->journal) + journal_staged(k->journal) + 1,
	    .bytes = c->report.bytes,
	    .time_us = c->report.time_us};
	struct journal_checkpoint bound = {.sequence = base.sequence};
	struct journal_record r = {.type = JOURNAL_CHECKPOINT,
	    .version = JOURNAL_VERSION,
	    .proc = PROC_KEEPER,
	    .slot = JOURNAL_NONE,
	    .account = JOURNAL_NONE,
	    .price = JOURNAL_NONE,
	    .payload_len = sizeof bound,
	    .time_us = keeper_realtime_us()};

	memcpy(base.link, c->report.link, sizeof base.link);
	journal_chain_end(c->hash, base.hash);
	memcpy(bound.link, base.link, sizeof bound.link);
	memcpy(bound.hash, base.hash, sizeof bound.hash);
	journal_stage_base(k->journal, &base);
	keeper_append(k, &r, &bound);
}

static void
stage_pieces(struct keeper *k, size_t pieces)
{
	struct compact *c = k->compact;
	uint64_t left = c->report.bytes - c->stored;
	size_t want = pieces * JOURNAL_PIECE_LEN, done = 0;

	if (want > left)
		want = (size_t)left;
	while (done < want) {
		ssize_t n =
		    pread(c->file, c->buffer + done, want - done, (off_t)(c->stored + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			/* Nothing is staged: REMOVING takes away what is in already. */
			conclude(k, COMPACTION_FAILED, "the checkpoint's file cannot be read");
			c->phase = REMOVING;
			return;
		}
		done += (size_t)n;
	}
	journal_chain_add(c->hash, c->buffer, want);
	journal_stage_piece(k->journal, c->piece, c->buffer, want);
	c->staged = want;
	if (c->stored + want == c->report.bytes)
		stage_record(k);
}

void
compact_stage(struct keeper *k)
{
	struct compact *c = k->compact;
	size_t records = journal_staged(k->journal);

	if (c == NULL)
		return;
	if (records > 0)
		c->busy_us = k->now_us;
	if (c->phase == STORING)
		stage_pieces(k, records > 0 ? PIECES_BUSY : PIECES_IDLE);
	else if (c->phase == REMOVING) {
		size_t n = records == 0 ? REMOVE_IDLE : REMOVE_TIMES * records;

		journal_stage_removal(k->journal, n > REMOVE_MIN ? n : REMOVE_MIN);
		c->removing = true;
	}
}

/* The checkpoint is valid. */
static void
stored(struct keeper *k)
{
	struct compact *c = k->compact;

	FAULT("compact.valid");
	close_fd(&c->file);
	c->phase = REMOVING;
	c->valid = true;
	atomic_store_explicit(&shown(k)->first_seq, c->report.sequence + 1, memory_order_relaxed);
	show_step(k, 3, c->report.sequence);
	/* Done, as far as another keeper would be concerned: it would only go on removing. */
	atomic_store_explicit(&shown(k)->before_us, 0, memory_order_relaxed);
}

static void
number_text(char text[static 24], uint64_t n)
{
	(void)snprintf(text, 24, "%llu", (unsigned long long)n);
}

static void
removed(struct keeper *k)
{
	struct compact *c = k->compact;
	struct region_compaction *s = shown(k);
	char sequence[24], n[24], ms[24];
	bool asked = wanted(k) == 0 && atomic_load_explicit(&s->asked, memory_order_relaxed) !=
	                                   atomic_load_explicit(&s->ended, memory_order_relaxed);

	FAULT("compact.removing");
	c->removed += journal_removed(k->journal);
	atomic_store_explicit(&s->done, c->removed, memory_order_relaxed);
	if (journal_removed(k->journal) > 0)
		return;
	if (c->valid) {
		number_text(sequence, journal_base(k->journal)->sequence);
		number_text(n, c->removed);
		number_text(ms, (monotonic_us() - c->began_us) / 1000);
		log_event(LOG_INFO, "journal compacted", "checkpoint", sequence, "removed", n, "ms",
		    ms, NULL);
	}
	/* Asked of a keeper before us, which got as far as its checkpoint. */
	if (c->valid || asked)
		conclude(k, COMPACTION_DONE, "");
	else {
		c->phase = IDLE;
		atomic_store_explicit(&s->step, 0, memory_order_relaxed);
	}
}

void
compact_committed(struct keeper *k)
{
	struct compact *c = k->compact;

	if (c == NULL)
		return;
	if (c->phase == STORING && c->staged > 0) {
		FAULT("compact.stored");
		c->piece += (uint32_t)((c->staged + JOURNAL_PIECE_LEN - 1) / JOURNAL_PIECE_LEN);
		c->stored += c->staged;
		c->staged = 0;
		atomic_store_explicit(&shown(k)->done, c->stored, memory_order_relaxed);
		if (c->stored == c->report.bytes)
			stored(k);
	} else if (c->phase == REMOVING && c->removing)
		removed(k);
	c->removing = false;
}

/* keep_days: an eighth of it more, so that a checkpoint is not made for every record. */
static void
look(struct keeper *k)
{
	uint64_t keep = k->heritage->config->journal.keep_days * DAY_US;
	uint64_t now = keeper_realtime_us();
	struct journal_record r;
	int64_t number;

	k->compact->look_us = k->now_us + LOOK_US;
	if (keep == 0 || now < keep + keep / 8 ||
	    journal_get(journal_reader(k->journal), journal_base(k->journal)->sequence + 1, &r,
	        NULL) != 1 ||
	    r.time_us >= now - keep - keep / 8)
		return;
	(void)compact_ask(k, (int64_t)(now - keep), &number);
}

bool
compact_busy(const struct keeper *k)
{
	const struct compact *c = k->compact;

	return c->phase == STORING || c->phase == REMOVING || (c->phase == MAKING && c->pipe < 0);
}

int
compact_fd(const struct keeper *k)
{
	return k->compact->pipe;
}

int
compact_tend(struct keeper *k, bool idle)
{
	struct compact *c = k->compact;

	switch (c->phase) {
	case IDLE:
		if (wanted(k) == 0 && k->now_us >= c->look_us)
			look(k);
		if (wanted(k) == 0)
			return 0;
		if (c->wait_for == 0)
			c->wait_for = journal_last(k->journal);
		/* A fork of a process whose other thread is at rest: it holds no lock then. */
		if (state_progress(k->state)->streams >= c->wait_for &&
		    !projector_busy(k->projector))
			start_helper(k);
		return 0;
	case MAKING:
		collect(k);
		return 0;
	case STORING:
	case REMOVING:
		/* Under load they go with the batches. */
		return idle && k->now_us - c->busy_us > IDLE_US ? keeper_commit_own(k) : 0;
	}
	return 0;
}
