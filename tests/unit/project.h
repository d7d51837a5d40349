#ifndef TESTS_UNIT_PROJECT_H
#define TESTS_UNIT_PROJECT_H

/* A projection in one go, in one thread: tests and what fills a state.mdb for a measurement. */
#include "daemon/state.h"

static inline int
project_now(
    struct state *st, struct books *b, struct journal *j, size_t max_records, uint64_t now_us)
{
	const struct state_order order = {.last = journal_last(j),
	    .max_rows = SIZE_MAX / 2,
	    .max_records = max_records,
	    .now_us = now_us};
	struct state_job *job = state_job_new();
	int rc = -1;

	if (job != NULL && state_take(job, b, &order)) {
		state_write(st, job, journal_reader(j));
		rc = state_finish(st, job, b);
	}
	state_job_free(job);
	return rc;
}

#endif
