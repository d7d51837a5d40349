/*
 * Goal:   a log line is one well-formed, bounded line whatever its fields hold.
 * Method: stderr is a datagram socket, so that each write(2) is one message; read and compare.
 * objs: daemon/log.o daemon/log_journal.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/log_journal.h"

static time_t ahead_s; /* of the clock that the log sees */

int
clock_gettime(clockid_t clock, struct timespec *ts)
{
	long rc = syscall(SYS_clock_gettime, clock, ts);
	ts->tv_sec += clock == CLOCK_MONOTONIC ? ahead_s : 0;
	return (int)rc;
}

static char line[65536];
static int real_stderr = -1, reader = -1;

static void
capture(void)
{
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair), 0);
	if (real_stderr < 0)
		real_stderr = dup(2);
	dup2(pair[1], 2);
	close(pair[1]);
	if (reader >= 0)
		close(reader);
	reader = pair[0];
}

static const char *
take(void)
{
	ssize_t n = recv(reader, line, sizeof(line) - 1, MSG_DONTWAIT);
	line[n > 0 ? n : 0] = 0;
	return line;
}

static int
teardown(void **state)
{
	(void)state;
	dup2(real_stderr, 2);
	return 0;
}

/* Check the head "time=2026-11-20T10:00:00.123Z level=info proc=P " and return the rest. */
static const char *
after_head(const char *level, const char *proc)
{
	static const char shape[] = "time=dddd-dd-ddTdd:dd:dd.dddZ ";
	char head[64];
	const char *text = take();
	for (size_t i = 0; i < sizeof(shape) - 1; i++) {
		if (shape[i] == 'd')
			assert_in_range(text[i], '0', '9');
		else
			assert_int_equal(text[i], shape[i]);
	}
	snprintf(head, sizeof(head), "level=%s proc=%s ", level, proc);
	assert_memory_equal(text + sizeof(shape) - 1, head, strlen(head));
	return text + sizeof(shape) - 1 + strlen(head);
}

static void
values_are_quoted_and_escaped(void **state)
{
	(void)state;
	capture();
	log_init("master", LOG_LOGFMT, LOG_INFO);
	log_event(LOG_INFO, "stream ended", "account", "alice", "note", "two words", "empty", "",
	    "absent", NULL, "eq", "a=b", NULL);
	assert_string_equal(after_head("info", "master"),
	    "msg=\"stream ended\" account=alice note=\"two words\" empty=\"\" eq=\"a=b\"\n");

	log_set_proc("worker-1");
	log_event(LOG_WARN, "x", "k", "say \"hi\"\\", "c", "a\nb\r\t\x01\x7f",
	    "u", "gr\xc3\xbc\xc3\x9f", "c1", "\xc2\x9b" "31m", NULL);
	assert_string_equal(after_head("warn", "worker-1"),
	    "msg=x k=\"say \\\"hi\\\"\\\\\" c=\"a\\nb\\r\\t\\u0001\\u007f\" u=gr\xc3\xbc\xc3\x9f "
	    "c1=\"\\u009b31m\"\n");

	/* Stray continuation, overlong, surrogate, beyond U+10FFFF, cut short. */
	log_event(LOG_ERROR, "bad", "v", "\x80|\xc0\xaf|\xed\xa0\x80|\xf4\x90\x80\x80|\xe2\x82",
	    NULL);
#define R "\xef\xbf\xbd"
	assert_string_equal(after_head("error", "worker-1"),
	    "msg=bad v=\"" R "|" R R "|" R R R "|" R R R R "|" R "\"\n");
}

static void
json_lines(void **state)
{
	(void)state;
	capture();
	log_init("admin", LOG_JSON, LOG_INFO);
	log_event(LOG_INFO, "a \"b\"", "k", "v\n\xff", "empty", "", NULL);
	const char *text = take();
	assert_memory_equal(text, "{\"time\":\"2", 10);
	assert_string_equal(strstr(text, "\",\"level\""),
	    "\",\"level\":\"info\",\"proc\":\"admin\",\"msg\":\"a \\\"b\\\"\",\"k\":\"v\\n" R
	    "\",\"empty\":\"\"}\n");
}

static void
levels_hold_lines_back(void **state)
{
	(void)state;
	capture();
	log_init("master", LOG_LOGFMT, LOG_WARN);
	log_info("not shown");
	assert_string_equal(take(), "");
	assert_false(log_enabled(LOG_INFO));
	log_set_level(LOG_DEBUG);
	log_event(LOG_DEBUG, "shown", NULL);
	assert_string_equal(after_head("debug", "master"), "msg=shown module=test_log\n");
	errno = ENOENT;
	log_warn("cannot open %s", "x");
	assert_string_equal(after_head("warn", "master"),
	    "msg=\"cannot open x: No such file or directory\"\n");
	errno = ENOENT;
	log_warnx("no");
	assert_int_equal(errno, ENOENT);
	assert_string_equal(after_head("warn", "master"), "msg=no\n");
}

static void
level_is_shared_with_forked_processes(void **state)
{
	int go[2], status;
	char byte = 0;
	(void)state;
	capture();
	log_init("master", LOG_LOGFMT, LOG_ERROR);
	assert_int_equal(pipe(go), 0);
	pid_t pid = fork();
	if (pid == 0) {
		byte = read(go[0], &byte, 1) == 1;
		_exit(log_enabled(LOG_DEBUG) ? 0 : 1);
	}
	log_set_level(LOG_DEBUG);
	assert_int_equal(write(go[1], &byte, 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(go[0]);
	close(go[1]);
}

/* Every length around the limit, in both formats, cut inside escapes and characters. */
static void
long_lines_are_cut_whole(void **state)
{
	static const char *const unit[] = { "x", "\xe2\x82\xac", "\n", "\x01", " ", "\"" };
	(void)state;
	capture();
	for (int json = 0; json < 2; json++)
		for (size_t u = 0; u < sizeof(unit) / sizeof(*unit); u++)
			for (size_t n = 8000; n < 8300; n++) {
				static char big[65536];
				size_t len = strlen(unit[u]), times = n / len;
				for (size_t i = 0; i < times; i++)
					memcpy(big + i * len, unit[u], len);
				big[times * len] = 0;
				log_init("m", json ? LOG_JSON : LOG_LOGFMT, LOG_INFO);
				log_event(LOG_INFO, "big", "k", big, "after", "1", NULL);
				const char *text = take();
				size_t got = strlen(text);
				assert_in_range(got, 1000, LOG_LINE_MAX);
				assert_int_equal(text[got - 1], '\n');
				assert_ptr_equal(strchr(text, '\n'), text + got - 1);
				if (json)
					assert_int_equal(text[got - 2], '}');
				size_t quotes = 0;
				for (size_t i = 0; i < got; i++) {
					if (text[i] == '\\')
						i++;
					else
						quotes += text[i] == '"';
				}
				assert_int_equal(quotes % 2, 0);
				if (!strstr(text, json ? "\"after\":\"1\"" : " after=1"))
					assert_non_null(strstr(text,
					    json ? "\"cut\":\"true\"}" : " cut=true\n"));
			}
}

static void
fatal_exits_with_1(void **state)
{
	int status;
	(void)state;
	capture();
	log_init("master", LOG_LOGFMT, LOG_INFO);
	pid_t pid = fork();
	if (pid == 0)
		fatalx("no %s", "way");
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	assert_string_equal(after_head("error", "master"), "msg=\"no way\"\n");
}

static void
modules_have_levels_of_their_own(void **state)
{
	static const struct log_module all[] = {
	    {"test", LOG_ERROR}, {"test_log", LOG_DEBUG}, {"nothing", LOG_DEBUG}};
	(void)state;
	capture();
	log_init("m", LOG_LOGFMT, LOG_WARN);
	log_event(LOG_DEBUG, "no", NULL);
	assert_string_equal(take(), "");
	/* The longest name that fits. */
	log_set_modules(all, 3);
	log_event(LOG_DEBUG, "yes", NULL);
	assert_string_equal(after_head("debug", "m"), "msg=yes module=test_log\n");
	log_set_modules(all, 1);
	log_warnx("no");
	assert_string_equal(take(), "");
	assert_true(log_enabled(LOG_ERROR));
	/* Others'. */
	log_set_modules(all + 2, 1);
	log_event(LOG_INFO, "no", NULL);
	assert_string_equal(take(), "");
	log_warnx("yes");
	assert_string_equal(after_head("warn", "m"), "msg=yes\n");
}

static void
complain(int i)
{
	errno = ENOSPC;
	log_warn("it failed for %d", i);
	assert_int_equal(errno, ENOSPC);
}

static void
what_comes_again_is_counted(void **state)
{
	int told = 0, others = 0;
	(void)state;
	capture();
	log_init("m", LOG_LOGFMT, LOG_INFO);
	for (int i = 0; i < 1000; i++) {
		complain(i);
		told += *take() != 0;
		/* One line a stream, however many. */
		log_event(LOG_INFO, "stream ended", NULL);
		others += *take() != 0;
	}
	assert_int_equal(told, LOG_REPEATS);
	assert_int_equal(others, 1000);
	/* Another message is another. */
	log_warnx("something else");
	assert_string_equal(after_head("warn", "m"), "msg=\"something else\"\n");
	/* Later the number is told, once, and it begins anew. */
	ahead_s += LOG_REPEAT_S;
	log_tick();
	assert_string_equal(after_head("warn", "m"),
	    "msg=\"left out what came again and again\" of=\"it failed for %d\" times=980\n");
	log_tick();
	assert_string_equal(take(), "");
	complain(7);
	assert_string_equal(after_head("warn", "m"),
	    "msg=\"it failed for 7: No space left on device\"\n");
	/* Nor does a child tell its parent's. */
	for (int i = 0; i < 30; i++)
		complain(i);
	while (*take())
		continue;
	log_set_proc("child");
	ahead_s += LOG_REPEAT_S;
	log_tick();
	assert_string_equal(take(), "");
}

static char datagram[65536];

/* The next datagram, its fields as "KEY=value|" in order; a binary one as "KEY:length=value|". */
static const char *
fields(int fd, char *to, size_t size)
{
	ssize_t n = recv(fd, datagram, sizeof(datagram) - 1, MSG_DONTWAIT);
	size_t len = 0;
	char *p = datagram, *end = datagram + (n > 0 ? n : 0);
	*to = 0;
	while (p < end) {
		char *nl = memchr(p, '\n', (size_t)(end - p)), *eq;
		assert_non_null(nl);
		*nl = 0;
		eq = strchr(p, '=');
		if (eq) {
			len += (size_t)snprintf(to + len, size - len, "%s|", p);
			p = nl + 1;
		} else {
			uint64_t bytes;
			memcpy(&bytes, nl + 1, 8);
			len += (size_t)snprintf(to + len, size - len, "%s:%u=%.*s|", p, (unsigned)bytes,
			    (int)bytes, nl + 9);
			assert_int_equal(nl[9 + bytes], '\n');
			p = nl + 10 + bytes;
		}
	}
	return to;
}

static void
the_journal_gets_fields(void **state)
{
	char path[] = "/tmp/test_log.XXXXXX", text[8192], stream[64];
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct stat st;
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	(void)state;
	assert_non_null(mkdtemp(path));
	snprintf(to.sun_path, sizeof(to.sun_path), "%s/socket", path);
	assert_int_equal(log_journal_open(to.sun_path), -1);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(bind(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	capture();
	log_init("worker-1", LOG_LOGFMT, LOG_INFO);

	assert_int_equal(fstat(2, &st), 0);
	unsetenv("JOURNAL_STREAM");
	assert_false(log_journal_there());
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
	    (unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	assert_true(log_journal_there());
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
	    (unsigned long long)st.st_ino + 1);
	setenv("JOURNAL_STREAM", stream, 1);
	assert_false(log_journal_there());

	assert_int_equal(log_journal_open(to.sun_path), 0);
	log_event(LOG_INFO, "stream ended", "account", "al ice", "first_token_ms", "3", "none", NULL,
	    NULL);
	assert_string_equal(fields(fd, text, sizeof(text)),
	    "MESSAGE=stream ended account=\"al ice\" first_token_ms=3|PRIORITY=6|"
	    "SYSLOG_IDENTIFIER=tolld|TOLLD_PROC=worker-1|TOLLD_MODULE=test_log|"
	    "TOLLD_MSG=stream ended|TOLLD_ACCOUNT=al ice|TOLLD_FIRST_TOKEN_MS=3|");
	/* A value ends where it ends, and a key is a key. */
	log_event(LOG_ERROR, "x", "a", "1\nPRIORITY=0\nTOLLD_FAKE=1", "b-c", "2", NULL);
	assert_string_equal(fields(fd, text, sizeof(text)),
	    "MESSAGE=x a=\"1\\nPRIORITY=0\\nTOLLD_FAKE=1\" b-c=2|PRIORITY=3|"
	    "SYSLOG_IDENTIFIER=tolld|TOLLD_PROC=worker-1|TOLLD_MODULE=test_log|TOLLD_MSG=x|"
	    "TOLLD_A:25=1\nPRIORITY=0\nTOLLD_FAKE=1|TOLLD_B_C=2|");
	assert_string_equal(take(), "");
	/* Nobody there: to stderr, with the priority that it is read for. */
	close(fd);
	log_warnx("alone");
	take();
	assert_int_equal(strncmp(line, "<4>time=", 8), 0);
	assert_non_null(strstr(line, " msg=alone\n"));
	assert_string_equal(log_prefix(), "<3>");
	log_sink.take = NULL;
	unlink(to.sun_path);
	rmdir(path);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(values_are_quoted_and_escaped, teardown),
		cmocka_unit_test_teardown(json_lines, teardown),
		cmocka_unit_test_teardown(levels_hold_lines_back, teardown),
		cmocka_unit_test_teardown(level_is_shared_with_forked_processes, teardown),
		cmocka_unit_test_teardown(long_lines_are_cut_whole, teardown),
		cmocka_unit_test_teardown(modules_have_levels_of_their_own, teardown),
		cmocka_unit_test_teardown(what_comes_again_is_counted, teardown),
		cmocka_unit_test_teardown(the_journal_gets_fields, teardown),
		cmocka_unit_test_teardown(fatal_exits_with_1, teardown),
	};
	return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
