/*
 * Accepting clients of the admin socket: who may.  Admin process.
 *
 * The socket file's mode (0660) keeps others out already; this is the second lock, for a file
 * whose mode was changed, and the place that writes down who tried.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/admin.h"
#include "daemon/log.h"

/* By the kernel's word, not the name service's: that could block. */
static bool
peer_in(int fd, const struct ucred *peer, gid_t gid)
{
	gid_t groups[1024];
	socklen_t len = sizeof groups;

	if (peer->gid == gid)
		return true;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) != 0)
		return false;
	for (size_t i = 0; i < len / sizeof groups[0]; i++)
		if (groups[i] == gid)
			return true;
	return false;
}

/*
 * Root, the daemon's own user, and members of the group that the socket file has; *full: may it
 * change things?
 */
static bool
peer_may(const struct admin *a, int fd, const struct ucred *peer, bool *full)
{
	gid_t full_gid = a->heritage->admin_full_gid;
	char path[4096];
	struct stat st;

	*full = true;
	if (peer->uid == 0 || peer->uid == a->uid)
		return true;
	(void)snprintf(path, sizeof path, "%s/admin.sock", a->heritage->config->runtime_dir);
	if (stat(path, &st) != 0 || !peer_in(fd, peer, st.st_gid))
		return false;
	*full = full_gid == ADMIN_ALL || peer_in(fd, peer, full_gid);
	return true;
}

static void
accept_cb(evutil_socket_t listener, short what, void *arg)
{
	struct admin *a = arg;
	struct ucred peer;
	socklen_t len = sizeof peer;
	bool full;
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)what;
	if (fd < 0) {
		/* Out of descriptors the listener would spin: the next tick adds it again. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			log_warn("admin socket: accept");
			event_del(a->listen);
		}
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0 ||
	    !peer_may(a, fd, &peer, &full)) {
		log_warnx("admin socket: uid %u (pid %d) may not use it", (unsigned)peer.uid,
		    (int)peer.pid);
		close(fd);
	} else if (!admin_client_new(a, fd, &peer, full)) {
		log_warnx("admin socket: %u clients already", a->client_count);
		close(fd);
	}
}

int
admin_listen(struct admin *a)
{
	TAILQ_INIT(&a->clients);
	if (evutil_make_socket_nonblocking(a->heritage->admin_unix_fd) != 0)
		return -1;
	a->listen = event_new(
	    a->base, a->heritage->admin_unix_fd, EV_READ | EV_PERSIST, accept_cb, a);
	return a->listen != NULL && event_add(a->listen, NULL) == 0 ? 0 : -1;
}
