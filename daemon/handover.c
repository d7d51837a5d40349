/*
 * Handing connections between workers.  Worker process.
 *
 * What crosses is the descriptor and plain HTTP: a request written anew from the few fields that
 * matter, then whatever the client had sent beyond it.  The receiver parses it like any other
 * input, so there is no second wire format between workers.
 */
#include "daemon/handover.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/log.h"
#include "shm/fault.h"

#define MESSAGE_MAX 65536
#define BATCH 64

struct handover {
	struct event *ev;
	char message[MESSAGE_MAX];
};

static int
receive(struct worker *w)
{
	struct handover *ho = w->handover;
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {ho->message, sizeof ho->message};
	struct msghdr msg = {
	    .msg_iov = &iov,
	    .msg_iovlen = 1,
	    .msg_control = control.space,
	    .msg_controllen = CMSG_LEN(sizeof(int)), /* in CMSG_SPACE there is room for two */
	};
	ssize_t n = recvmsg(w->heritage->inbox_rd[w->proc], &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *cm;
	int fd;

	if (n < 0)
		return -1;
	FAULT("handover.received");
	cm = CMSG_FIRSTHDR(&msg);
	if (cm == NULL || cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS) {
		log_warnx("handover without a connection");
		return 0;
	}
	memcpy(&fd, CMSG_DATA(cm), sizeof fd);
	if ((msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)
		close(fd);
	else
		conn_adopt(w->server, fd, ho->message, (size_t)n);
	return 0;
}

static void
inbox_cb(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	for (int i = 0; i < BATCH && receive(arg) == 0; i++)
		continue;
}

int
handover_listen(struct worker *w)
{
	struct handover *ho = calloc(1, sizeof *ho);

	if (ho == NULL)
		return -1;
	w->handover = ho;
	ho->ev = event_new(w->base, w->heritage->inbox_rd[w->proc], EV_READ | EV_PERSIST, inbox_cb,
	    w);
	return ho->ev == NULL ? -1 : event_add(ho->ev, NULL);
}

void
handover_close(struct worker *w)
{
	if (w->handover == NULL)
		return;
	if (w->handover->ev != NULL)
		event_free(w->handover->ev);
	free(w->handover);
	w->handover = NULL;
}

static void
copy_header(struct buf *b, const struct http_request *h, const char *name)
{
	struct span v = http_header(h, name);

	if (v.p != NULL)
		buf_printf(b, "%s: %.*s\r\n", name, (int)v.len, v.p);
}

/* The request as the owner shall see it: no body, the same wishes about the connection. */
static void
write_request(struct buf *b, const struct http_request *h, const char *path_and_query)
{
	/* A HEAD stays one: it must not run the stream, and its client expects no body. */
	const char *method = h->method == HTTP_DELETE ? "DELETE"
	    : h->method == HTTP_HEAD			 ? "HEAD"
							 : "GET";

	buf_printf(b, "%s %s HTTP/1.%d\r\nHost: tolld\r\n", method, path_and_query, h->minor);
	buf_str(b, h->keep_alive ? "Connection: keep-alive\r\n" : "Connection: close\r\n");
	copy_header(b, h, "Origin");
	copy_header(b, h, "Last-Event-ID");
	copy_header(b, h, "X-Request-ID");
	buf_str(b, "\r\n");
}

static int
send_fd(int inbox, int fd, const struct buf *b)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {b->data, b->len};
	struct msghdr msg = {
	    .msg_iov = &iov,
	    .msg_iovlen = 1,
	    .msg_control = control.space,
	    .msg_controllen = sizeof control.space,
	};
	struct cmsghdr *cm;

	memset(&control, 0, sizeof control);
	cm = CMSG_FIRSTHDR(&msg);
	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_RIGHTS;
	cm->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(cm), &fd, sizeof fd);
	return sendmsg(inbox, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 0;
}

bool
handover_send(struct worker *w, uint32_t proc, struct conn *c, const struct http_request *h,
    const char *path_and_query)
{
	struct buf b = {0};
	bool sent;
	int fd;

	write_request(&b, h, path_and_query);
	buf_span(&b, conn_ahead(c));
	/* Sent before the conn is let go: if the inbox is full it is still ours to answer. */
	sent = !b.failed && b.len <= MESSAGE_MAX &&
	    send_fd(w->heritage->inbox_wr[proc], conn_fd(c), &b) == 0;
	buf_free(&b);
	if (!sent)
		return false;
	FAULT("handover.sent");
	fd = conn_detach(c, NULL);
	close(fd);
	return true;
}
