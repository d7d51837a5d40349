/*
 * Messages with descriptors between the master and its children.  Any process.
 */
#include "daemon/order.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union control {
	struct cmsghdr align;
	char space[CMSG_SPACE(ORDER_FDS_MAX * sizeof(int))];
};

/* Without the padding behind them, which has room for one descriptor more. */
#define RECEIVE_LEN CMSG_LEN(ORDER_FDS_MAX * sizeof(int))

int
order_send(int fd, const struct order *o, const char *text, size_t len, const int fds[], int n)
{
	union control control;
	struct iovec iov[2] = {{(void *)(uintptr_t)o, sizeof *o}, {(void *)(uintptr_t)text, len}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
	struct cmsghdr *cm;

	if (len > ORDER_TEXT_MAX || n > ORDER_FDS_MAX) {
		errno = EMSGSIZE;
		return -1;
	}
	if (n > 0) {
		memset(&control, 0, sizeof control);
		msg.msg_control = control.space;
		msg.msg_controllen = CMSG_SPACE((size_t)n * sizeof(int));
		cm = CMSG_FIRSTHDR(&msg);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN((size_t)n * sizeof(int));
		memcpy(CMSG_DATA(cm), fds, (size_t)n * sizeof(int));
	}
	return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 0;
}

void
order_close(struct order_received *r)
{
	while (r->fds > 0)
		close(r->fd[--r->fds]);
}

int
order_receive(int fd, struct order_received *r)
{
	union control control;
	struct iovec iov[2] = {{&r->order, sizeof r->order}, {r->text, sizeof r->text}};
	struct msghdr msg = {.msg_iov = iov,
	    .msg_iovlen = 2,
	    .msg_control = control.space,
	    .msg_controllen = RECEIVE_LEN};
	ssize_t n;

	for (;;) {
		r->fds = 0;
		n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return 0;
		for (struct cmsghdr *cm = CMSG_FIRSTHDR(&msg); cm != NULL; cm = CMSG_NXTHDR(&msg, cm))
			if (cm->cmsg_level == SOL_SOCKET && cm->cmsg_type == SCM_RIGHTS) {
				r->fds = (int)((cm->cmsg_len - CMSG_LEN(0)) / sizeof(int));
				memcpy(r->fd, CMSG_DATA(cm), (size_t)r->fds * sizeof(int));
			}
		if ((size_t)n >= sizeof r->order && (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0) {
			r->len = (size_t)n - sizeof r->order;
			return 1;
		}
		/* Not one of ours. */
		order_close(r);
		msg.msg_controllen = RECEIVE_LEN;
	}
}
