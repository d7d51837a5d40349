/*
 * backup.run: daemon/backup.c's helper, and telling how far it is.  Admin process.
 *
 * One at a time.  When its caller goes away, it is broken off.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/admin.h"
#include "daemon/backup.h"

struct running {
	struct admin *admin;
	struct admin_call *call; /* NULL: broken off */
	struct backup backup;
	char dir[PATH_MAX];
	struct event *ended, *tick;
};

static uint64_t
file_size(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void
tick_cb(evutil_socket_t fd, short what, void *arg)
{
	struct running *r = arg;
	char path[PATH_MAX];
	struct proto_out out;

	(void)fd;
	(void)what;
	if (r->call == NULL)
		return;
	(void)snprintf(path, sizeof path, "%s/journal.mdb",
	    r->admin->heritage->config->state_dir);
	proto_out_init(&out);
	proto_put_notification(&out, "backup.progress");
	proto_put_map(&out, 2);
	proto_put_kint(&out, "bytes", (int64_t)file_size(r->backup.part));
	/* What is free in it is not copied: at most so much. */
	proto_put_kint(&out, "of", (int64_t)file_size(path));
	admin_notify(r->call, &out);
	proto_out_free(&out);
}

static void
answer(struct running *r, const struct backup_result *result)
{
	struct proto_out *out;

	if (!result->ok) {
		(void)admin_error(r->call, "backup_failed", "dir", "%s", result->why);
	} else {
		admin_log(r->call, "backup made");
		out = admin_result(r->call);
		proto_put_map(out, 3);
		proto_put_kstr(out, "dir", r->dir);
		proto_put_kint(out, "records", (int64_t)result->records);
		proto_put_kint(out, "bytes", (int64_t)result->bytes);
	}
	admin_finish(r->call);
}

static void
ended_cb(evutil_socket_t fd, short what, void *arg)
{
	struct running *r = arg;
	struct backup_result result;

	(void)fd;
	(void)what;
	event_free(r->ended);
	event_free(r->tick);
	backup_finish(&r->backup, &result);
	r->admin->backup = NULL;
	if (r->call != NULL) {
		r->call->cancel = NULL;
		answer(r, &result);
	}
	free(r);
}

static void
cancel(struct admin_call *call)
{
	struct running *r = call->state;

	/* Its end is seen later: a process that waits for a disk does not die at once. */
	backup_kill(&r->backup);
	r->call = NULL;
	admin_finish(call);
}

void
admin_backup_stop(struct admin *a)
{
	struct running *r = a->backup;

	/* The helper dies with us. */
	if (r == NULL)
		return;
	event_free(r->ended);
	event_free(r->tick);
	backup_kill(&r->backup);
	free(r);
	a->backup = NULL;
}

enum admin_step
admin_backup_run(struct admin_call *call, const struct proto_value *v)
{
	static const struct timeval often = {0, 500000};
	struct admin *a = call->admin;
	struct running *r;

	if (v[0].text[0] != '/')
		return admin_error(call, "invalid_argument", "dir", "the folder's path is absolute");
	if (a->backup != NULL)
		return admin_error(call, "busy", NULL, "another backup is running");
	r = calloc(1, sizeof *r);
	if (r == NULL)
		return admin_error(call, "out_of_memory", NULL, "out of memory");
	r->admin = a;
	r->call = call;
	memcpy(r->dir, v[0].text, v[0].len); /* bounded by the table */
	for (size_t n = v[0].len; n > 1 && r->dir[n - 1] == '/'; n--)
		r->dir[n - 1] = '\0';
	if (backup_start(&r->backup, a->heritage->config->state_dir, r->dir,
		a->heritage->key_secret) < 0) {
		free(r);
		return admin_error(
		    call, "unavailable", NULL, "no process can be made: %s", strerror(errno));
	}
	r->ended = event_new(a->base, r->backup.fd, EV_READ, ended_cb, r);
	r->tick = event_new(a->base, -1, EV_PERSIST, tick_cb, r);
	if (r->ended == NULL || r->tick == NULL || event_add(r->ended, NULL) != 0 ||
	    event_add(r->tick, &often) != 0) {
		struct backup_result result;

		backup_kill(&r->backup);
		backup_finish(&r->backup, &result);
		if (r->ended != NULL)
			event_free(r->ended);
		if (r->tick != NULL)
			event_free(r->tick);
		free(r);
		return admin_error(call, "out_of_memory", NULL, "out of memory");
	}
	a->backup = r;
	call->state = r;
	call->cancel = cancel;
	return ADMIN_LATER;
}
