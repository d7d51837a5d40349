/*
 * sd_listen_fds(3) in a few lines.  Master, before any fork.
 *
 * A descriptor is what it is bound to: the config says which addresses clients are served at, and
 * who passes another one is told so.  Serving it would be a listener that no file of ours names;
 * not serving it would swallow connections.
 */
#include "daemon/inherited.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/log.h"

#define FIRST_FD 3

/* A decimal number below `end`; -1 if it is none. */
static long
number(const char *text, long end)
{
	char *rest;
	long n;
	if (*text < '0' || *text > '9')
		return -1;
	errno = 0;
	n = strtol(text, &rest, 10);
	return *rest || errno != 0 || n >= end ? -1 : n;
}

static void
address_print(const struct address *a, char *to, size_t size)
{
	const struct sockaddr_in *in = (const void *)&a->sockaddr;
	const struct sockaddr_in6 *in6 = (const void *)&a->sockaddr;
	char host[INET6_ADDRSTRLEN] = "";
	if (a->sockaddr.ss_family == AF_INET) {
		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(to, size, "%s:%u", host, ntohs(in->sin_port));
	} else if (a->sockaddr.ss_family == AF_INET6) {
		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		snprintf(to, size, "[%s]:%u", host, ntohs(in6->sin6_port));
	} else if (a->sockaddr.ss_family == AF_UNIX) {
		snprintf(to, size, "unix:%s", address_path(a));
	} else {
		snprintf(to, size, "of another kind");
	}
}

static bool
address_same(const struct address *a, const struct address *b)
{
	const struct sockaddr_in *a4 = (const void *)&a->sockaddr, *b4 = (const void *)&b->sockaddr;
	const struct sockaddr_in6 *a6 = (const void *)a4, *b6 = (const void *)b4;
	if (a->sockaddr.ss_family != b->sockaddr.ss_family)
		return false;
	if (a->sockaddr.ss_family == AF_INET)
		return a4->sin_port == b4->sin_port && a4->sin_addr.s_addr == b4->sin_addr.s_addr;
	if (a->sockaddr.ss_family == AF_INET6)
		return a6->sin6_port == b6->sin6_port &&
		       memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof(a6->sin6_addr)) == 0;
	return a->sockaddr.ss_family == AF_UNIX && strcmp(address_path(a), address_path(b)) == 0;
}

/* What is wrong with a descriptor, or NULL; its address. */
static const char *
look(int fd, struct address *a)
{
	int type = 0, listening = 0, flags = fcntl(fd, F_GETFL);
	socklen_t len = sizeof(type);
	memset(a, 0, sizeof(*a)); /* an abstract or nameless unix address has the path "" */
	a->len = sizeof(a->sockaddr) - 1;
	if (flags < 0)
		return "it is not open";
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM)
		return "it is not a stream socket";
	len = sizeof(listening);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening)
		return "it does not listen";
	/* One that blocks would hold up a worker when another one was quicker to accept. */
	if (getsockname(fd, (struct sockaddr *)&a->sockaddr, &a->len) < 0 ||
	    fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return strerror(errno);
	return NULL;
}

int
inherited_read(struct inherited *in)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	char *names = getenv("LISTEN_FDNAMES"), *name;
	long count = 0;
	int result = 0;

	in->count = 0;
	names = names ? strdup(names) : NULL;
	/* Somebody else's: a shell between the service manager and us has kept its environment. */
	if (pid && fds && atol(pid) == (long)getpid())
		count = number(fds, INHERITED_MAX + 1);
	if (count < 0)
		log_event(
		    LOG_ERROR, "LISTEN_FDS must be a number of at most 64", "value", fds, NULL);
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	for (char *rest = names; in->count < (size_t)(count < 0 ? 0 : count); in->count++) {
		size_t i = in->count;
		char where[128] = "";
		const char *why;
		name = rest ? strsep(&rest, ":") : NULL;
		in->socket[i].fd = FIRST_FD + (int)i;
		why = look(in->socket[i].fd, &in->socket[i].a);
		if (!why)
			address_print(&in->socket[i].a, where, sizeof(where));
		snprintf(in->socket[i].text, sizeof(in->socket[i].text), "%.24s%s%s",
		    name ? name : "", name && *name ? " " : "", where);
		if (!why)
			continue;
		char number_text[16];
		snprintf(number_text, sizeof(number_text), "%d", in->socket[i].fd);
		log_event(LOG_ERROR, "a descriptor was passed that cannot be used", "fd",
		    number_text, "name", name, "error", why, NULL);
		if (strcmp(why, "it is not open") == 0)
			in->socket[i].fd = -1;
		result = -1;
	}
	free(names);
	return count < 0 ? -1 : result;
}

int
inherited_take(struct inherited *in, const struct address *a)
{
	for (size_t i = 0; i < in->count; i++) {
		int fd = in->socket[i].fd;
		if (fd < 0 || !address_same(&in->socket[i].a, a))
			continue;
		log_event(LOG_INFO, "listening on a socket that was passed", "socket",
		    in->socket[i].text, NULL);
		in->socket[i].fd = -1;
		return fd;
	}
	return -1;
}

const char *
inherited_left(const struct inherited *in)
{
	for (size_t i = 0; i < in->count; i++)
		if (in->socket[i].fd >= 0)
			return in->socket[i].text;
	return NULL;
}

void
inherited_close(struct inherited *in)
{
	for (size_t i = 0; i < in->count; i++)
		if (in->socket[i].fd >= 0) {
			close(in->socket[i].fd);
			in->socket[i].fd = -1;
		}
}
