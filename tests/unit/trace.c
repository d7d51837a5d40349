#include "tests/unit/trace.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

pid_t
trace_start(void (*run)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(77);
		raise(SIGSTOP);
		run();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("no ptrace here\n");
		skip();
	}
	/* A failing test leaves by longjmp: do not let the child outlive us then. */
	assert_int_equal(ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_EXITKILL), 0);
	return pid;
}

bool
trace_step(pid_t pid)
{
	int status;

	assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSTOPPED(status))
		return true;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("the stepped process ended with status %x", (unsigned int)status);
	return false;
}

void
trace_run(pid_t pid, void (*meanwhile)(void))
{
	int status;
	pid_t got;

	assert_int_equal(ptrace(PTRACE_CONT, pid, NULL, NULL), 0);
	while ((got = waitpid(pid, &status, WNOHANG)) == 0)
		meanwhile();
	assert_int_equal(got, pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("the traced process ended with status %x", (unsigned int)status);
}

void
trace_kill(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}
