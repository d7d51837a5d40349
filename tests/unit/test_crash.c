/*
 * Goal:   whatever a process dies of, it says where, in two whole lines, and dies of that.
 * Method: a child faults in a function that is known, in each way; its lines and its status are
 *         compared with what must be in them.
 * objs: daemon/crash.o daemon/log.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/crash.h"
#include "daemon/log.h"
#include "daemon/sanitized.h"

static char text[32768];
static volatile uintptr_t zero;

/* The ways to die.  Each is a function that no compiler melts into another. */

__attribute__((noinline, noclone)) static int
read_nothing(void)
{
	return *(volatile int *)(zero + 16) + 1;
}

__attribute__((noinline, noclone)) static int
write_nothing(void)
{
	*(volatile int *)zero = 1;
	return 1;
}

__attribute__((noinline, noclone)) static int
jump_to_nothing(void)
{
	int (*volatile nothing)(void) = (int (*)(void))zero;

	return nothing() + 1;
}

__attribute__((noinline, noclone)) static int
call_abort(void)
{
	abort();
}

__attribute__((noinline, noclone)) static int
divide(void)
{
	return (int)(1000 / zero) + 1;
}

__attribute__((noinline, noclone)) static int
go_deeper(void)
{
	volatile char much[4096];

	much[0] = 1;
	return much[zero] == 0 ? 0 : go_deeper() + much[zero];
}

__attribute__((noinline, noclone)) static int
read_past_end(void)
{
	FILE *f = tmpfile();
	volatile char *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fileno(f), 0);

	return *p + 1;
}

__attribute__((noinline, noclone)) static int
illegal(void)
{
	__builtin_trap();
}

/* A stack whose frames lead nowhere: the second line need not come, the rest must. */
__attribute__((noinline, noclone)) static int
trample(void)
{
	volatile uintptr_t here[2] = {0};

	for (size_t i = 0; i < 4096; i++)
		((volatile uintptr_t *)here)[i] = UINT64_C(0x4141414141414141);
	return (int)here[0];
}

/* What it wrote, in text; its wait status. */
static int
die(int (*how)(void), enum log_format format)
{
	int out[2], status;
	size_t n = 0;
	ssize_t got;
	pid_t pid;

	assert_int_equal(pipe(out), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit none = {0, 0};

		dup2(out[1], STDERR_FILENO);
		close(out[0]);
		(void)setrlimit(RLIMIT_CORE, &none);
		log_init("victim", format, LOG_INFO);
		crash_init();
		_exit(how() == 12345 ? 1 : 0);
	}
	close(out[1]);
	while ((got = read(out[0], text + n, sizeof text - 1 - n)) > 0)
		n += (size_t)got;
	text[n] = '\0';
	close(out[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* The offset behind it; 0 if there is no place of the program there. */
static uintptr_t
place(const char *after)
{
	const char *at = strstr(text, after);

	assert_non_null(at);
	at += strlen(after);
	if (strncmp(at, "tolld+0x", 8) != 0)
		return 0;
	return (uintptr_t)strtoull(at + 6, NULL, 16);
}

static void
assert_inside(uintptr_t offset, int (*function)(void))
{
	Dl_info info;
	uintptr_t start;

	assert_int_not_equal(dladdr((void *)(uintptr_t)function, &info), 0);
	start = (uintptr_t)function - (uintptr_t)info.dli_fbase;
	assert_in_range(offset, start, start + 200);
}

static void
says(const char *what)
{
	if (strstr(text, what) == NULL)
		fail_msg("\"%s\" is not in:\n%s", what, text);
}

static void
check(int (*how)(void), int sig, const char *head)
{
	int status = die(how, LOG_LOGFMT);

	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), sig);
	says(" level=error proc=victim msg=\"crash\" pid=");
	says(head);
	says(" version=" TOLLD_VERSION " build_id=");
	says(" msg=\"crash trace\" pid=");
	assert_int_equal(text[strlen(text) - 1], '\n');
	assert_null(strstr(text, "build_id=none"));
}

static void
test_faults(void **state)
{
	(void)state;
	check(read_nothing, SIGSEGV, " signal=SIGSEGV code=1 address=0x10 pc=tolld+0x");
	assert_inside(place(" pc="), read_nothing);
	assert_inside(place(" trace=\""), read_nothing);
	check(write_nothing, SIGSEGV, " signal=SIGSEGV code=1 address=0x0 pc=tolld+0x");
	assert_inside(place(" pc="), write_nothing);
	check(divide, SIGFPE, " signal=SIGFPE code=1 address=0x");
	assert_inside(place(" trace=\""), divide);
	check(read_past_end, SIGBUS, " signal=SIGBUS code=2 address=0x");
	assert_inside(place(" trace=\""), read_past_end);
	check(illegal, SIGILL, " signal=SIGILL code=2 address=0x");
	assert_inside(place(" trace=\""), illegal);
}

/* The frames behind libc's own are ours. */
static void
test_abort(void **state)
{
	const char *at;

	(void)state;
	check(call_abort, SIGABRT, " signal=SIGABRT code=-6 sender=");
	at = strstr(text, " tolld+0x");
	assert_non_null(at);
	assert_inside((uintptr_t)strtoull(at + 7, NULL, 16), call_abort);
}

/* A call of a null pointer: no code is there, but the caller is told. */
static void
test_jump(void **state)
{
	(void)state;
	check(jump_to_nothing, SIGSEGV, " signal=SIGSEGV code=1 address=0x0 pc=? ");
#if defined(__x86_64__)
	assert_inside(place(" trace=\"? "), jump_to_nothing);
#endif
}

static void
test_overflow(void **state)
{
	(void)state;
	check(go_deeper, SIGSEGV, " signal=SIGSEGV code=");
	assert_inside(place(" pc="), go_deeper);
}

static void
test_trampled_stack(void **state)
{
	int status = die(trample, LOG_LOGFMT);

	(void)state;
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSEGV);
	says(" msg=\"crash\" pid=");
	says(" pc=tolld+0x");
	/* What stood on the stack is not told. */
	assert_null(strstr(text, "4141"));
}

/* The unwinder faults in what abort() left it: it is an abort all the same. */
__attribute__((noinline, noclone)) static int
abort_on_trampled(void)
{
	volatile uintptr_t here[2] = {0};

	for (size_t i = 0; i < 256; i++)
		((volatile uintptr_t *)here)[i] = UINT64_C(0x4141414141414141);
	raise(SIGABRT);
	return (int)here[0];
}

static void
test_trampled_abort(void **state)
{
	int status = die(abort_on_trampled, LOG_LOGFMT);

	(void)state;
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
	says(" signal=SIGABRT code=-6 ");
}

static void
test_json(void **state)
{
	char *second;
	int status = die(read_nothing, LOG_JSON);

	(void)state;
	assert_int_equal(WTERMSIG(status), SIGSEGV);
	assert_int_equal(strncmp(text, "{\"time\":\"2", 10), 0);
	says("Z\",\"level\":\"error\",\"proc\":\"victim\",\"msg\":\"crash\",\"pid\":\"");
	second = strchr(text, '\n');
	assert_non_null(second);
	assert_int_equal(strncmp(second - 2, "\"}", 2), 0);
	assert_int_equal(strncmp(second + 1, "{\"time\":\"2", 10), 0);
	says("\"}\n{");
	assert_int_equal(strcmp(text + strlen(text) - 3, "\"}\n"), 0);
}

/* The log's own clock and ours agree. */
__attribute__((noinline, noclone)) static int
log_and_die(void)
{
	log_info("now");
	return read_nothing();
}

static void
test_time(void **state)
{
	(void)state;
	(void)die(log_and_die, LOG_LOGFMT);
	/* To the minute, but for the change of one. */
	assert_int_equal(strncmp(text, "time=20", 7), 0);
	assert_int_equal(strncmp(text, strchr(text, '\n') + 1, strlen("time=2026-11-21T08")), 0);
}

int
main(void)
{
#ifdef SANITIZED
	puts("crash reports are the sanitizer's here");
	return 0;
#else
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_faults),
	    cmocka_unit_test(test_abort),
	    cmocka_unit_test(test_jump),
	    cmocka_unit_test(test_overflow),
	    cmocka_unit_test(test_trampled_stack),
	    cmocka_unit_test(test_trampled_abort),
	    cmocka_unit_test(test_json),
	    cmocka_unit_test(test_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
#endif
}
