#ifndef TESTS_UNIT_TRACE_H
#define TESTS_UNIT_TRACE_H

/*
 * A child process that is taken through a function one machine instruction at a time, by ptrace:
 * between two steps its shared memory is what a kill there would leave.
 */
#include <stdbool.h>
#include <sys/types.h>

/*
 * Fork a child that stops, and then runs this and ends with 0.  Where there is no ptrace the test
 * is skipped.
 */
pid_t trace_start(void (*run)(void));
/* One instruction further; false when the child has ended, which must be well. */
bool trace_step(pid_t);
/* Let it run to its end, which must be well, and call this again and again meanwhile. */
void trace_run(pid_t, void (*meanwhile)(void));
/* Kill it where it stands. */
void trace_kill(pid_t);

#endif
