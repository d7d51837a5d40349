/*
 * Goal:   a process that is not what it should be hands no more descriptors to another one than a
 *         message of theirs has: none lands beside its place, none stays open.
 * Method: messages over socket pairs with one too many, as many as there may be, and fewer; the
 *         process's open descriptors counted before and after.
 * objs: daemon/order.o daemon/handover.o daemon/buf.o daemon/log.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/handover.h"
#include "daemon/order.h"

/* In place of daemon/conn.c and http.c: a connection that was handed over. */
static int adopted = -1;
static char adopted_bytes[16];

void
conn_adopt(struct server *s, int fd, const char *input, size_t len)
{
	(void)s;
	assert_int_equal(adopted, -1);
	assert_true(len < sizeof adopted_bytes);
	adopted = fd;
	memcpy(adopted_bytes, input, len);
}

struct span
conn_ahead(const struct conn *c)
{
	(void)c;
	return SPAN("");
}

int
conn_fd(const struct conn *c)
{
	(void)c;
	return -1;
}

int
conn_detach(struct conn *c, struct buf *ahead)
{
	(void)c;
	(void)ahead;
	return -1;
}

struct span
http_header(const struct http_request *h, const char *name)
{
	(void)h;
	(void)name;
	return (struct span){NULL, 0};
}

static unsigned
open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(dir);
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n;
}

static void
pair_new(int pair[2])
{
	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
}

static void
pair_close(int pair[2])
{
	close(pair[0]);
	close(pair[1]);
}

/* Whatever order_send and handover_send would say to it. */
static void
send_descriptors(int to, const void *bytes, size_t len, int n)
{
	static union {
		struct cmsghdr align;
		char space[CMSG_SPACE(253 * sizeof(int))];
	} control;
	struct iovec iov = {(void *)(uintptr_t)bytes, len};
	struct msghdr msg = {.msg_iov = &iov,
	    .msg_iovlen = 1,
	    .msg_control = control.space,
	    .msg_controllen = CMSG_SPACE((size_t)n * sizeof(int))};
	struct cmsghdr *cm;

	memset(&control, 0, sizeof control);
	cm = CMSG_FIRSTHDR(&msg);
	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_RIGHTS;
	cm->cmsg_len = CMSG_LEN((size_t)n * sizeof(int));
	for (int i = 0; i < n; i++)
		memcpy(CMSG_DATA(cm) + (size_t)i * sizeof(int), &to, sizeof(int));
	assert_int_equal(sendmsg(to, &msg, 0), len);
}

static void
an_order_with_too_many(void **state)
{
	static struct order_received r;
	struct order o = {.kind = ORDER_REPORT, .number = 7};
	unsigned before;
	int pair[2];

	(void)state;
	pair_new(pair);
	before = open_descriptors();
	for (int n = ORDER_FDS_MAX + 1; n < ORDER_FDS_MAX + 4; n++) {
		send_descriptors(pair[1], &o, sizeof o, n);
		assert_int_equal(order_receive(pair[0], &r), 0);
		assert_int_equal(r.fds, 0);
		assert_int_equal(open_descriptors(), before);
	}
	/* What comes behind it is none the worse. */
	send_descriptors(pair[1], &o, sizeof o, ORDER_FDS_MAX + 1);
	send_descriptors(pair[1], &o, sizeof o, ORDER_FDS_MAX);
	assert_int_equal(order_receive(pair[0], &r), 1);
	assert_int_equal(r.order.number, 7);
	assert_int_equal(r.fds, ORDER_FDS_MAX);
	for (int i = 0; i < r.fds; i++)
		assert_true(fcntl(r.fd[i], F_GETFD) == FD_CLOEXEC);
	order_close(&r);
	assert_int_equal(open_descriptors(), before);
	pair_close(pair);
}

static void
an_order_without(void **state)
{
	static struct order_received r;
	struct order o = {.kind = ORDER_LEAVE};
	int pair[2];

	(void)state;
	pair_new(pair);
	assert_int_equal(order_send(pair[1], &o, "text", 4, NULL, 0), 0);
	assert_int_equal(order_receive(pair[0], &r), 1);
	assert_true(r.fds == 0 && r.len == 4 && memcmp(r.text, "text", 4) == 0);
	assert_int_equal(send(pair[1], &o, sizeof o - 1, 0), sizeof o - 1);
	assert_int_equal(order_receive(pair[0], &r), 0);
	pair_close(pair);
}

static void
a_connection_with_too_many(void **state)
{
	struct heritage heritage = {0};
	struct worker w = {.heritage = &heritage, .proc = PROC_WORKER, .base = event_base_new()};
	unsigned before;
	int pair[2];

	(void)state;
	pair_new(pair);
	heritage.inbox_rd[w.proc] = pair[0];
	assert_int_equal(handover_listen(&w), 0);
	assert_int_equal(event_base_loop(w.base, EVLOOP_NONBLOCK), 0);
	before = open_descriptors();
	for (int n = 2; n < 5; n++) {
		send_descriptors(pair[1], "GET", 3, n);
		assert_int_equal(event_base_loop(w.base, EVLOOP_NONBLOCK), 0);
		assert_int_equal(adopted, -1);
		assert_int_equal(open_descriptors(), before);
	}
	send_descriptors(pair[1], "GET", 3, 1);
	assert_int_equal(event_base_loop(w.base, EVLOOP_NONBLOCK), 0);
	assert_true(adopted >= 0 && memcmp(adopted_bytes, "GET", 3) == 0);
	close(adopted);
	assert_int_equal(open_descriptors(), before);
	handover_close(&w);
	event_base_free(w.base);
	pair_close(pair);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(an_order_with_too_many),
	    cmocka_unit_test(an_order_without),
	    cmocka_unit_test(a_connection_with_too_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
