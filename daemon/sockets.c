/*
 * Listeners, admin sockets, eventfds and inboxes.  Master, before any fork; the last function
 * runs in each child.
 */
#include "daemon/sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "daemon/address.h"
#include "daemon/inherited.h"
#include "daemon/log.h"

#define BACKLOG 4096 /* net.core.somaxconn caps it */
#define INBOX_BYTES (1 << 20)
/* Who may use the admin socket, if there is such a group. */
#define ADMIN_GROUP "toll"
/* The last of a killed daemon's children may be closing its listeners just now. */
#define IN_USE_MS_MAX 300
#define IN_USE_STEP_MS 10

/* Unix sockets that we bound and have to unlink. */
static char *bound[CONFIG_LISTEN_MAX + 2];
static size_t bound_count;

static int
complain(const char *what, const char *where, int error)
{
	log_event(LOG_ERROR, what, "address", where, "error", error ? strerror(error) : NULL, NULL);
	return -1;
}

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/*
 * What the kernel may hold of a connection's unsent bytes.  Its own measure is megabytes: a
 * slow reader's stream would run on, and be paid for, far beyond what it has read.
 */
#define UNSENT_MAX 32768

/* TCP_NODELAY and TCP_NOTSENT_LOWAT: inherited by what is accepted. */
static int
tcp_tune(int fd)
{
	const int on = 1, unsent = UNSENT_MAX;
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		return -1;
	return setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
}

/* A bound TCP socket, or -1 with errno. */
static int
tcp_bind(const struct address *a, bool shared)
{
	const int on = 1;
	int family = a->sockaddr.ss_family, saved;
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    (shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0) ||
	    (family == AF_INET6 &&
	        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0) ||
	    tcp_tune(fd) < 0 || bind(fd, (const struct sockaddr *)&a->sockaddr, a->len) < 0) {
		saved = errno;
		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

static int
tcp_listen(const char *text, const struct address *a, bool shared)
{
	int fd = tcp_bind(a, shared);
	if (fd >= 0 && listen(fd, BACKLOG) < 0) {
		int saved = errno;
		close(fd);
		errno = saved;
		fd = -1;
	}
	if (fd < 0)
		complain("cannot listen", text, errno);
	return fd;
}

/*
 * SO_REUSEPORT would let a second daemon of the same user take half of our connections: only a
 * bind without it tells that the address is in use.
 */
static int
tcp_probe(const char *text, const struct address *a)
{
	const struct timespec step = { .tv_nsec = IN_USE_STEP_MS * 1000000L };
	for (int waited = 0;; waited += IN_USE_STEP_MS) {
		int fd = tcp_bind(a, false);
		/* Binding alone is allowed beside another that is only bound, too. */
		if (fd >= 0 && listen(fd, 1) == 0) {
			close(fd);
			return 0;
		}
		int error = errno;
		if (fd >= 0)
			close(fd);
		if (error != EADDRINUSE || waited >= IN_USE_MS_MAX)
			return complain("cannot listen", text, error);
		nanosleep(&step, NULL);
	}
}

/* Make way for a unix socket: remove a stale one, refuse a live one or another kind of file. */
static int
unix_clear(const char *text, const struct address *a)
{
	struct stat st;
	int fd, error;
	if (lstat(address_path(a), &st) < 0)
		return errno == ENOENT ? 0 : complain("cannot listen", text, errno);
	if (!S_ISSOCK(st.st_mode))
		return complain("cannot listen: this file is not a socket", text, 0);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return complain("cannot listen", text, errno);
	error = connect(fd, (const struct sockaddr *)&a->sockaddr, a->len) < 0 ? errno : 0;
	close(fd);
	if (error != ECONNREFUSED) /* success, or EAGAIN: its queue is full */
		return complain("cannot listen: another process does", text, 0);
	if (unlink(address_path(a)) < 0)
		return complain("cannot remove a stale socket", text, errno);
	return 0;
}

/* Mode 0660: its owner and its group may connect. */
static int
unix_listen(const char *text, const struct address *a, uid_t uid, gid_t gid)
{
	const char *path = address_path(a);
	mode_t before;
	int fd, result;
	if (unix_clear(text, a) < 0)
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return complain("cannot listen", text, errno);
	before = umask(0117); /* never open to others, not even for a moment */
	result = bind(fd, (const struct sockaddr *)&a->sockaddr, a->len);
	umask(before);
	if (result < 0 || listen(fd, BACKLOG) < 0) {
		complain("cannot listen", text, errno);
		if (result == 0)
			unlink(path);
		close(fd);
		return -1;
	}
	bound[bound_count] = strdup(path);
	if (!bound[bound_count++])
		fatal("sockets");
	/* Without root a group can be given only if one is in it: then it stays with our own. */
	if (lchown(path, uid, gid) < 0 && (errno != EPERM || geteuid() == 0)) {
		complain("cannot set the owner of the socket", text, errno);
		close(fd);
		return -1;
	}
	return fd;
}

/*
 * Give out the sockets that were passed for address i: worker w has the w-th, counted round.  One
 * is shared by all workers: whoever is awake first accepts.  SO_REUSEPORT siblings of our own are
 * no way, for the kernel wants them from the same user, and closing one resets who waits in it.
 * How many there are; -1 after a log line.
 */
static int
take_passed(struct heritage *h, int i, struct inherited *in, const struct address *a,
    uint32_t workers)
{
	const char *text = h->config->listen[i];
	int *fd = h->listen_fd[i], next, many = 0;
	while ((next = inherited_take(in, a)) >= 0) {
		if ((uint32_t)many == workers) {
			close(next);
			return complain("more sockets were passed for this address than there are "
			                "workers to read them", text, 0);
		}
		fd[many++] = next;
		if (!address_is_unix(a) && tcp_tune(next) < 0)
			return complain("cannot set up a socket that was passed", text, errno);
	}
	h->listen_passed[i] = many > 0;
	for (uint32_t w = (uint32_t)many; many > 0 && w < workers; w++)
		fd[w] = fd[w % (uint32_t)many];
	return many;
}

static int
open_listeners(struct heritage *h, struct inherited *in, uint32_t workers,
    const struct owner *owner)
{
	uid_t uid = owner->change ? owner->uid : geteuid();
	gid_t gid = owner->change ? owner->gid : getegid();
	for (int i = 0; i < h->config->listen_count; i++) {
		const char *text = h->config->listen[i], *why;
		int *fd = h->listen_fd[i];
		struct address a;
		if (!address_parse(text, &a, &why))
			return complain(why, text, 0);
		int passed = take_passed(h, i, in, &a, workers);
		if (passed < 0)
			return -1;
		if (passed > 0)
			continue;
		if (address_is_unix(&a)) {
			fd[0] = unix_listen(text, &a, uid, gid);
			for (uint32_t w = 1; w < workers; w++)
				fd[w] = fd[0];
			if (fd[0] < 0)
				return -1;
			continue;
		}
		if (tcp_probe(text, &a) < 0)
			return -1;
		for (uint32_t w = 0; w < workers; w++)
			if ((fd[w] = tcp_listen(text, &a, true)) < 0)
				return -1;
	}
	if (inherited_left(in))
		return complain("a socket was passed that `listen` does not name",
		    inherited_left(in), 0);
	return 0;
}

static int
open_admin(struct heritage *h, const struct owner *owner)
{
	const char *http = h->config->admin_listen, *why = NULL;
	uid_t uid = owner->change ? owner->uid : geteuid();
	gid_t gid = owner->change ? owner->gid : getegid(), own = gid;
	const char *name = h->config->admin_group, *full = h->config->admin_full_group;
	const struct group *group = getgrnam(*name ? name : ADMIN_GROUP);
	char *text;
	struct address a;

	if (*name && group == NULL)
		return complain("there is no such group", name, 0);
	if (group != NULL)
		gid = group->gr_gid;
	h->admin_full_gid = ADMIN_ALL;
	if (*full && (group = getgrnam(full)) == NULL)
		return complain("there is no such group", full, 0);
	if (*full)
		h->admin_full_gid = group->gr_gid;

	if (asprintf(&text, "unix:%s/admin.sock", h->config->runtime_dir) < 0)
		fatal("sockets");
	if (!address_parse(text, &a, &why))
		complain(why, text, 0);
	else
		h->admin_unix_fd = unix_listen(text, &a, uid, gid);
	free(text);
	if (h->admin_unix_fd < 0)
		return -1;
	if (!*http)
		return 0;
	if (!address_parse(http, &a, &why))
		return complain(why, http, 0);
	if (!address_is_unix(&a) && tcp_probe(http, &a) < 0)
		return -1;
	h->admin_http_fd = address_is_unix(&a) ? unix_listen(http, &a, uid, own)
	                                       : tcp_listen(http, &a, false);
	return h->admin_http_fd < 0 ? -1 : 0;
}

/*
 * A pair of sockets that keeps message boundaries.  SEQPACKET rather than DGRAM: the queue of
 * the latter is cut at net.unix.max_dgram_qlen messages, which is 10 on many systems.
 */
static int
open_inbox(int *rd, int *wr)
{
	const int bytes = INBOX_BYTES;
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	*rd = pair[0];
	*wr = pair[1];
	/* What root may exceed others get as far as net.core.wmem_max goes. */
	if (setsockopt(*wr, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0)
		return setsockopt(*wr, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	return 0;
}

void
sockets_init(struct heritage *h)
{
	for (int i = 0; i < CONFIG_LISTEN_MAX; i++)
		for (int w = 0; w < 2 * REGION_WORKERS_MAX; w++)
			h->listen_fd[i][w] = -1;
	h->admin_http_fd = -1;
	h->admin_unix_fd = -1;
	h->config_record = -1;
	for (int p = 0; p < REGION_PROCS_MAX; p++)
		h->wake_fd[p] = h->inbox_rd[p] = h->inbox_wr[p] = h->order_ours[p] =
		    h->order_theirs[p] = -1;
}

int
sockets_open(struct heritage *h, struct inherited *passed, uint32_t workers,
    const struct owner *owner)
{
	for (uint32_t p = 0; p < h->region.h->procs; p++) {
		h->wake_fd[p] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (h->wake_fd[p] < 0 ||
		    (p >= PROC_WORKER && open_inbox(&h->inbox_rd[p], &h->inbox_wr[p]) < 0) ||
		    (p >= PROC_KEEPER && open_inbox(&h->order_theirs[p], &h->order_ours[p]) < 0))
			return complain("cannot make the descriptors between processes", NULL,
			    errno);
	}
	if (open_admin(h, owner) < 0)
		return -1;
	return open_listeners(h, passed, workers, owner);
}

/*
 * Close one address's listeners but for worker `keep`'s (-1: none).  One descriptor may stand in
 * several places: that of a unix socket, and in an upgrade a worker's and its successor's.
 */
static void
close_listeners(int fd[static 2 * REGION_WORKERS_MAX], int keep)
{
	int kept = keep >= 0 ? fd[keep] : -1;
	for (int w = 0; w < 2 * REGION_WORKERS_MAX; w++) {
		int one = fd[w];
		if (one < 0)
			continue;
		for (int v = w; v < 2 * REGION_WORKERS_MAX; v++)
			if (fd[v] == one && v != keep)
				fd[v] = -1;
		if (one != kept)
			close(one);
	}
}

const char *
sockets_bound(size_t i)
{
	return i < bound_count ? bound[i] : NULL;
}

void
sockets_adopt(const char *path)
{
	if (bound_count == sizeof(bound) / sizeof(*bound) || !(bound[bound_count] = strdup(path)))
		fatalx("sockets");
	bound_count++;
}

void
sockets_forward(const struct heritage *h, uint32_t from, uint32_t to)
{
	static char bytes[65536];
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { bytes, sizeof(bytes) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	for (;;) {
		struct cmsghdr *cm;
		ssize_t n;
		int fd = -1;
		iov.iov_len = sizeof(bytes);
		msg.msg_control = control.space;
		msg.msg_controllen = CMSG_LEN(sizeof(int)); /* in CMSG_SPACE there is room for two */
		n = recvmsg(h->inbox_rd[from], &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return;
		cm = CMSG_FIRSTHDR(&msg);
		if (cm && cm->cmsg_level == SOL_SOCKET && cm->cmsg_type == SCM_RIGHTS)
			memcpy(&fd, CMSG_DATA(cm), sizeof(fd));
		iov.iov_len = (size_t)n;
		/* As it came, its descriptor with it; who cannot be told is closed. */
		if (sendmsg(h->inbox_wr[to], &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			log_warn("a connection for a worker that is gone");
		if (fd >= 0)
			close(fd);
	}
}

void
sockets_stop_listening(struct heritage *h)
{
	for (int i = 0; i < CONFIG_LISTEN_MAX; i++)
		close_listeners(h->listen_fd[i], -1);
}

void
sockets_close(struct heritage *h)
{
	sockets_stop_listening(h);
	close_fd(&h->admin_http_fd);
	close_fd(&h->admin_unix_fd);
	close_fd(&h->config_record);
	for (int p = 0; p < REGION_PROCS_MAX; p++) {
		close_fd(&h->wake_fd[p]);
		close_fd(&h->inbox_rd[p]);
		close_fd(&h->inbox_wr[p]);
		close_fd(&h->order_ours[p]);
		close_fd(&h->order_theirs[p]);
	}
	while (bound_count > 0) {
		unlink(bound[--bound_count]);
		free(bound[bound_count]);
	}
}

void
sockets_keep(struct heritage *h, uint32_t proc)
{
	int worker = proc >= PROC_WORKER ? (int)(proc - PROC_WORKER) : -1;
	for (int i = 0; i < CONFIG_LISTEN_MAX; i++)
		close_listeners(h->listen_fd[i], worker);
	close_fd(&h->config_record);
	if (proc != PROC_ADMIN) {
		close_fd(&h->admin_http_fd);
		close_fd(&h->admin_unix_fd);
	}
	for (uint32_t p = 0; p < REGION_PROCS_MAX; p++) {
		close_fd(&h->order_ours[p]);
		if (p != proc) {
			close_fd(&h->inbox_rd[p]);
			close_fd(&h->order_theirs[p]);
		}
		if (proc == PROC_KEEPER)
			close_fd(&h->inbox_wr[p]);
	}
}
