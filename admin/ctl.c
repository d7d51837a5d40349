/*
 * tollctl's side of the control socket: connect, call, wait for the answer.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "admin/tollctl.h"

/* So long the daemon may be silent. */
#define SILENCE_SECONDS 30

static const msgpack_object *
fail(struct ctl *ctl, enum ctl_exit why)
{
	ctl->exit = why;
	return NULL;
}

static bool
ctl_connect(struct ctl *ctl)
{
	const struct timeval silence = {SILENCE_SECONDS, 0};
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	if (strlen(ctl->socket) >= sizeof sun.sun_path) {
		(void)fprintf(stderr, "tollctl: %s: too long for a socket's path\n", ctl->socket);
		return false;
	}
	memcpy(sun.sun_path, ctl->socket, strlen(ctl->socket) + 1);
	ctl->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (ctl->fd < 0 ||
	    setsockopt(ctl->fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence) != 0 ||
	    setsockopt(ctl->fd, SOL_SOCKET, SO_SNDTIMEO, &silence, sizeof silence) != 0 ||
	    connect(ctl->fd, (struct sockaddr *)&sun, sizeof sun) != 0) {
		(void)fprintf(stderr, "tollctl: cannot reach the daemon at %s: %s\n", ctl->socket,
		    strerror(errno));
		return false;
	}
	return true;
}

static bool
ctl_send(struct ctl *ctl, const struct proto_out *out)
{
	for (size_t at = 0; at < out->len;) {
		ssize_t n = send(ctl->fd, out->data + at, out->len - at, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			(void)fprintf(stderr, "tollctl: %s: %s\n", ctl->socket,
			    errno == EAGAIN ? "the daemon does not listen" : strerror(errno));
			return false;
		}
		at += (size_t)n;
	}
	return true;
}

/* Wait for more bytes; false after having said what went wrong. */
static bool
ctl_read(struct ctl *ctl)
{
	ssize_t n;

	if (ctl->in_cap - ctl->in_len < 65536) {
		size_t cap = ctl->in_cap == 0 ? 131072 : ctl->in_cap * 2;
		char *p = realloc(ctl->in, cap);

		if (p == NULL) {
			(void)fprintf(stderr, "tollctl: out of memory\n");
			return false;
		}
		ctl->in = p;
		ctl->in_cap = cap;
	}
	do
		n = recv(ctl->fd, ctl->in + ctl->in_len, ctl->in_cap - ctl->in_len, 0);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		ctl->in_len += (size_t)n;
		return true;
	}
	if (n == 0)
		(void)fprintf(stderr, "tollctl: %s: the daemon closed the connection\n",
		    ctl->socket);
	else
		(void)fprintf(stderr, "tollctl: %s: %s\n", ctl->socket,
		    errno == EAGAIN ? "no answer" : strerror(errno));
	return false;
}

/* The next whole message, in ctl->answer. */
static bool
ctl_message(struct ctl *ctl)
{
	struct proto_scan scan = {0};
	enum proto_scan_result r;
	const char *why;

	if (ctl->has_answer)
		proto_message_free(&ctl->answer);
	ctl->has_answer = false;
	if (ctl->in_used > 0) {
		ctl->in_len -= ctl->in_used;
		memmove(ctl->in, ctl->in + ctl->in_used, ctl->in_len);
		ctl->in_used = 0;
	}
	while ((r = proto_scan(&scan, ctl->in, ctl->in_len, PROTO_ANSWER_MAX)) == PROTO_MORE)
		if (!ctl_read(ctl))
			return false;
	if (r != PROTO_WHOLE) {
		(void)fprintf(stderr, "tollctl: %s: this is not a tolld\n", ctl->socket);
		return false;
	}
	why = proto_decode(&ctl->answer, ctl->in, scan.at);
	ctl->has_answer = true;
	ctl->in_used = scan.at;
	if (why != NULL)
		(void)fprintf(stderr, "tollctl: %s: not an answer: %s\n", ctl->socket, why);
	return why == NULL;
}

/* {"code", "message", "field"?} of an error or of a last word. */
static void
complain(const msgpack_object *error)
{
	size_t code_len, message_len;
	const char *code = proto_get_text(error, "code", &code_len);
	const char *message = proto_get_text(error, "message", &message_len);

	(void)fprintf(stderr, "tollctl: ");
	for (size_t i = 0; i < message_len; i++)
		(void)fputc((unsigned char)message[i] < 0x20 ? '?' : message[i], stderr);
	(void)fprintf(stderr, " (%.*s)\n", (int)code_len, code);
}

static void
put_args(const struct ctl *ctl, const struct command *c, const int64_t *page,
    struct proto_out *out)
{
	size_t n = page != NULL;

	for (int i = 0; c->args[i].name != NULL; i++)
		n += ctl->given[i] != NULL && c->args[i].key != NULL;
	proto_put_map(out, n);
	for (int i = 0; c->args[i].name != NULL; i++) {
		if (ctl->given[i] == NULL || c->args[i].key == NULL)
			continue;
		if (c->args[i].type == CMD_TEXT)
			proto_put_kstr(out, c->args[i].key, ctl->given[i]);
		else if (c->args[i].type == CMD_FLAG)
			proto_put_kbool(out, c->args[i].key, true);
		else
			proto_put_kint(out, c->args[i].key, ctl->number[i]);
	}
	if (page != NULL)
		proto_put_kint(out, "after", *page);
}

const msgpack_object *
ctl_call(struct ctl *ctl, const struct command *c, const int64_t *page)
{
	struct proto_out out;
	bool sent;

	if (ctl->fd < 0 && !ctl_connect(ctl))
		return fail(ctl, CTL_UNREACHABLE);
	proto_out_init(&out);
	proto_put_request(&out, ++ctl->id, c->method);
	put_args(ctl, c, page, &out);
	sent = !out.failed && ctl_send(ctl, &out);
	proto_out_free(&out);
	if (!sent)
		return fail(ctl, CTL_UNREACHABLE);
	for (;;) {
		const struct proto_message *m = &ctl->answer;

		if (!ctl_message(ctl))
			return fail(ctl, CTL_UNREACHABLE);
		if (m->kind == PROTO_NOTIFICATION) {
			if (m->method_len == 5 && memcmp(m->method, "error", 5) == 0) {
				complain(m->args);
				return fail(ctl, CTL_REFUSED);
			}
			if (ctl->notified != NULL)
				ctl->notified(ctl, m->method, m->method_len, m->args);
			continue;
		}
		if (m->kind != PROTO_ANSWER || m->id != ctl->id)
			continue;
		if (m->error == NULL)
			return m->result;
		complain(m->error);
		return fail(ctl, CTL_REFUSED);
	}
}

enum ctl_exit
ctl_show(struct ctl *ctl, const struct command *c)
{
	const msgpack_object *result = ctl_call(ctl, c, NULL);

	if (result == NULL)
		return ctl->exit;
	if (ctl->json) {
		print_json(result);
		(void)printf("\n");
	} else
		print_object(result);
	return CTL_DONE;
}

void
ctl_close(struct ctl *ctl)
{
	if (ctl->has_answer)
		proto_message_free(&ctl->answer);
	if (ctl->fd >= 0)
		close(ctl->fd);
	if (ctl->in != NULL)
		explicit_bzero(ctl->in, ctl->in_len); /* perhaps with a key */
	free(ctl->in);
}
