/*
 * When state.mdb is brought up to date, and what follows from it.  Keeper process, its first thread;
 * the work is the other one's (daemon/projector.h).
 *
 * Nothing that is acknowledged rests on state.mdb, so nobody waits for it but who asks to (SYNC).
 */
#include <errno.h>
#include <stdatomic.h>

#include "daemon/keeper.h"
#include "daemon/log.h"
#include "shm/clock.h"
#include "shm/fault.h"

/*
 * A job begins when so many records are lacking, or the oldest of them for so long, or nobody comes.
 * The more it brings, the less each costs: a row is written once a job, and neighbours share a page.
 */
#define PROJECT_RECORDS 32768
#define PROJECT_AGE_US 500000
/* Of streams in one transaction: more than come meanwhile, so that it catches up under any load. */
#define PROJECT_RECORDS_MAX (4 * PROJECT_RECORDS)
/* Copied between two batches: half a millisecond. */
#define TAKE_ROWS 2048
#define SWEEP_US 10000000 /* expiry and dead readers are looked after */
#define WAIT_MS 250       /* for a job, before the next heartbeat */

static void
wait_for_job(void *arg)
{
	struct keeper *k = arg;

	while (projector_busy(k->projector) && !projector_wait(k->projector, WAIT_MS))
		if (k->serving)
			keeper_heartbeat(k);
}

int
keeper_project_begin(struct keeper *k)
{
	k->projector = projector_new(k->state, journal_reader(k->journal));
	if (k->projector == NULL) {
		log_warn("the projector cannot be started");
		return -1;
	}
	journal_on_growth(k->journal, wait_for_job, k);
	return 0;
}

void
keeper_project_end(struct keeper *k)
{
	if (k->projector == NULL)
		return;
	wait_for_job(k);
	projector_free(k->projector);
	k->projector = NULL;
}

uint64_t
keeper_unprojected(const struct keeper *k)
{
	return journal_last(k->journal) - state_progress(k->state)->streams;
}

bool
keeper_syncing(const struct keeper *k)
{
	for (uint32_t p = PROC_ADMIN; p < k->region->h->procs; p++)
		if (k->sync_to[p] != 0)
			return true;
	return false;
}

bool
keeper_project_hangs(struct keeper *k)
{
	uint64_t limit = k->heritage->config->timeouts.hang * UINT64_C(1000000), steps;

	if (k->projector == NULL || !projector_busy(k->projector) || limit == 0)
		return false;
	steps = state_job_steps(projector_job(k->projector));
	if (steps != k->steps) {
		k->steps = steps;
		k->steps_us = k->now_us;
	}
	return k->now_us > k->steps_us + limit;
}

/* Go on taking rows for the next job; start it once they are all there. */
static void
take(struct keeper *k, size_t max_rows)
{
	const struct state_order order = {.last = journal_last(k->journal),
	    .max_rows = max_rows,
	    .max_records = PROJECT_RECORDS_MAX,
	    .now_us = keeper_realtime_us(),
	    .sweep = k->sweep};

	k->taking = !state_take(projector_job(k->projector), k->books, &order);
	if (k->taking)
		return;
	k->sweep = false;
	/* Of what comes from now on. */
	k->unprojected_us = 0;
	k->steps = state_job_steps(projector_job(k->projector));
	k->steps_us = monotonic_us();
	projector_start(k->projector);
	FAULT("project.taken");
}

int
keeper_projected(struct keeper *k)
{
	int rc;

	if (!projector_done(k->projector))
		return 0;
	projector_end(k->projector);
	rc = state_finish(k->state, projector_job(k->projector), k->books);
	if (rc < 0)
		return -1;
	/* Release: who sees it finds the rows. */
	atomic_store_explicit(
	    &k->region->h->projected_seq, state_progress(k->state)->streams, memory_order_release);
	if (k->unprojected_us == 0 && keeper_unprojected(k) > 0)
		k->unprojected_us = k->committed_us;
	if (keeper_syncing(k)) {
		FAULT("keeper.synced");
		keeper_publish_rings(k);
	}
	return 0;
}

void
keeper_project(struct keeper *k, bool idle)
{
	uint64_t waiting = keeper_unprojected(k);
	bool sweep = k->now_us - k->swept_us > SWEEP_US;

	if (sweep && !k->sweep) {
		k->sweep = true;
		k->swept_us = k->now_us;
		journal_check_readers(k->journal);
	}
	if (projector_busy(k->projector))
		return;
	if (k->taking || k->sweep || (waiting > 0 && idle) || waiting > PROJECT_RECORDS ||
	    keeper_syncing(k) ||
	    (k->unprojected_us != 0 && k->now_us - k->unprojected_us > PROJECT_AGE_US))
		take(k, TAKE_ROWS);
}

int
keeper_project_all(struct keeper *k)
{
	do {
		if (!projector_busy(k->projector))
			take(k, SIZE_MAX / 2);
		wait_for_job(k);
		if (keeper_projected(k) < 0)
			return -1;
	} while (keeper_unprojected(k) > 0);
	return 0;
}
