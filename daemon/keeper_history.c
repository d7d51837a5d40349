/*
 * The keeper's part of the history: it looks for conversations that are too old, or too many, and
 * removes what is forgotten in pieces that go with its commits.  Keeper process.
 *
 * Nothing of it holds up who waits for a commit: what comes with one that somebody waits for is
 * little enough not to be noticed, and while nobody does there is a pause after each of our own.
 */
#include "daemon/keeper.h"
#include "daemon/log.h"
#include "shm/fault.h"

/* Rows that a commit removes: with one that somebody waits for; with one of our own, when nobody
 * has come for a while. */
#define SWEEP_BUSY 64
#define SWEEP_IDLE 1024
#define IDLE_US 5000
/* Looking: rows a step, and between two of them; between two walks over all. */
#define LOOK_ROWS 2048
#define LOOK_US (UINT64_C(100) * 1000)
#define WALK_US (UINT64_C(60) * 1000000)
#define DAY_US (UINT64_C(86400) * 1000000)

void
keeper_history_begin(struct keeper *k)
{
	const struct config *c = k->heritage->config;
	struct history_rules rules = {
	    .on = c->history.enabled, .keep_sessions = c->history.keep_sessions};

	journal_history_rules(k->journal, &rules);
}

void
keeper_history_stage(struct keeper *k)
{
	struct history_walk *w = &k->history.walk;
	bool busy = journal_staged(k->journal) > 0;

	if (busy)
		k->history.busy_us = k->now_us;
	for (size_t i = 0; i < w->drops; i++)
		journal_stage_drop(k->journal, &w->drop[i]);
	w->drops = 0;
	if (journal_history_left(k->journal))
		journal_stage_sweep(k->journal, busy ? SWEEP_BUSY : SWEEP_IDLE);
}

/* One step of the walk. */
static void
look(struct keeper *k)
{
	const struct config *c = k->heritage->config;
	uint64_t now = keeper_realtime_us(), keep_us = c->history.keep_days * DAY_US;
	uint64_t before = keep_us != 0 && now > keep_us ? now - keep_us : 0;
	uint32_t keep = c->history.keep_sessions != 0 ? c->history.keep_sessions : UINT32_MAX;
	int more;

	k->history.look_us = k->now_us + LOOK_US;
	if (c->history.enabled && before == 0 && keep == UINT32_MAX) {
		k->history.look_us = k->now_us + WALK_US;
		return;
	}
	/* Switched off: nothing of it is kept. */
	more = journal_history_walk(k->journal, &k->history.walk, LOOK_ROWS,
	    c->history.enabled ? before : UINT64_MAX, keep);
	if (more < 0)
		log_warnx("the history cannot be read: nothing of it is too old for now");
	if (more > 0)
		return;
	k->history.walk.begun = false;
	k->history.look_us = k->now_us + WALK_US;
}

bool
keeper_history_busy(const struct keeper *k)
{
	return journal_history_left(k->journal) || k->history.walk.drops > 0;
}

int
keeper_history_tend(struct keeper *k, bool idle)
{
	if (k->history.walk.drops == 0 && k->now_us >= k->history.look_us)
		look(k);
	/* Under load it goes with the batches. */
	if (!idle || !keeper_history_busy(k) || k->now_us - k->history.busy_us <= IDLE_US)
		return 0;
	if (keeper_commit_own(k) < 0)
		return -1;
	FAULT("history.swept");
	if (!k->heritage->config->history.enabled && !keeper_history_busy(k))
		log_info("the history is switched off, and what there was of it is removed");
	return 0;
}
