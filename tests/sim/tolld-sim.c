/*
 * tolld-sim: a simulated provider, compatible with OpenAI's chat API, for the demo, the tests and
 * the benchmarks.  A single process with one libevent loop; what it answers is steered by the
 * request's `model` string:
 *
 *	sim                      100 English tokens, as fast as the socket takes them
 *	sim:k=v,k=v,...          with these keys (README.md has the whole story)
 *
 *	tokens=N  rate=N  delay=MS  first=MS  slowhdr=MS          how much, how fast
 *	lang=en|ru|zh|code|emoji|json|even  text=%-ENCODED  echo=1  stamp=1    which text
 *	batch=N  pack=N  split=N  gap=MS  eol=lf|crlf  role=0|1  comments=1  close=1    which form
 *	usage=yes|no|zero|null|finish|over:N|under:N|neg|huge  prompt=N  cached=N  reason=N
 *	fault=cut|reset|stall|garbage|badutf8|halfutf8|error|errordone|giant|nodone|nofinish|dupdone@N
 *	status=NNN  retryafter=S  html=1  json200=1  empty=1  badlen=1  key=SECRET
 *
 * This file holds the start, the listener and the end; conn.c the connections, request.c what
 * clients send, script.c the steering, reply.c the answers, words.c the texts, wheel.c the time.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "conn.h"
#include "words.h"

#define ACCEPTS_MAX 64 /* a turn; the rest waits for the next */

static int
usage(void)
{
	fprintf(
	    stderr, "usage: tolld-sim [-l ADDR:PORT] [--log FILE] [--ready-fd N] [--tick US]\n");
	return 2;
}

static void
stop_cb(evutil_socket_t sig, short what, void *arg)
{
	(void)sig;
	(void)what;
	event_base_loopbreak(arg);
}

static void
accept_cb(evutil_socket_t listener, short what, void *arg)
{
	int on = 1;

	(void)what;
	(void)arg;
	for (int i = 0; i < ACCEPTS_MAX; i++) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		conn_new(fd);
	}
}

/* Parse ADDR:PORT, bind and listen; the port that came of it goes into addr. */
static int
listener_open(const char *where, struct sockaddr_in *addr)
{
	const char *colon = strrchr(where, ':');
	socklen_t addr_len = sizeof(*addr);
	char host[64] = "127.0.0.1", *end;
	unsigned long port;
	int fd, on = 1;

	if (colon == NULL)
		return -1;
	if (colon > where)
		snprintf(host, sizeof(host), "%.*s", (int)(colon - where), where);
	port = strtoul(colon + 1, &end, 10);
	*addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	if (*end != '\0' || port > 65535 || inet_pton(AF_INET, host, &addr->sin_addr) != 1) {
		errno = EINVAL;
		return -1;
	}
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)addr, sizeof(*addr)) != 0 || listen(fd, 4096) != 0 ||
	    getsockname(fd, (struct sockaddr *)addr, &addr_len) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void
files_limit_raise(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
}

int
main(int argc, char **argv)
{
	const char *where = "127.0.0.1:0", *log_path = NULL;
	struct event_base *base;
	struct event *accept_ev, *term_ev, *int_ev;
	struct sockaddr_in addr;
	FILE *log = NULL;
	char line[96];
	int fd, ready_fd = -1, tick_us = 1000;

	if (argc == 2 && strcmp(argv[1], "--texts") == 0) {
		words_print();
		return fflush(stdout) != 0;
	}
	for (int i = 1; i < argc; i += 2) {
		if (i + 1 == argc)
			return usage();
		if (strcmp(argv[i], "-l") == 0)
			where = argv[i + 1];
		else if (strcmp(argv[i], "--log") == 0)
			log_path = argv[i + 1];
		else if (strcmp(argv[i], "--ready-fd") == 0)
			ready_fd = atoi(argv[i + 1]);
		else if (strcmp(argv[i], "--tick") == 0)
			tick_us = atoi(argv[i + 1]);
		else
			return usage();
	}
	if (tick_us < 1 || tick_us > 999999)
		return usage();
	if (log_path != NULL && (log = fopen(log_path, "ae")) == NULL) {
		perror(log_path);
		return 1;
	}
	files_limit_raise();
	signal(SIGPIPE, SIG_IGN);
	fd = listener_open(where, &addr);
	if (fd < 0) {
		fprintf(stderr, "tolld-sim: %s: %s\n", where, strerror(errno));
		return 1;
	}
	base = event_base_new();
	if (base == NULL || conn_init(base, log, (unsigned)tick_us) != 0) {
		perror("tolld-sim");
		return 1;
	}
	accept_ev = event_new(base, fd, EV_READ | EV_PERSIST, accept_cb, NULL);
	term_ev = evsignal_new(base, SIGTERM, stop_cb, base);
	int_ev = evsignal_new(base, SIGINT, stop_cb, base);
	if (accept_ev == NULL || term_ev == NULL || int_ev == NULL ||
	    event_add(accept_ev, NULL) != 0 || event_add(term_ev, NULL) != 0 ||
	    event_add(int_ev, NULL) != 0) {
		fprintf(stderr, "tolld-sim: out of memory\n");
		return 1;
	}
	snprintf(line, sizeof(line), "listening on %s:%u\n", inet_ntoa(addr.sin_addr),
	    ntohs(addr.sin_port));
	fputs(line, stdout);
	fflush(stdout);
	if (ready_fd >= 0) {
		if (write(ready_fd, line, strlen(line)) < 0)
			perror("tolld-sim: ready-fd");
		close(ready_fd);
	}
	event_base_dispatch(base);
	conn_fini();
	event_free(accept_ev);
	event_free(term_ev);
	event_free(int_ev);
	event_base_free(base);
	close(fd);
	if (log != NULL)
		fclose(log);
	return 0;
}
