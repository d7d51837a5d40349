/*
 * From one program to the next, across exec.  Master.
 *
 * The file is read by another program than the one that wrote it, but only after that program was
 * asked and said the same legacy_abi; so it is a plain struct.
 */
#include "daemon/legacy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/config_change.h"
#include "daemon/config_record.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/sockets.h"
#include "daemon/state_rows.h"
#include "daemon/version.h"
#include "shm/account.h"
#include "shm/ledger.h"
#include "shm/ring.h"
#include "shm/stranger.h"

#define MAGIC UINT64_C(0x31594341474c4c54) /* "TLLGACY1" */
#define TEXTS 7 /* of a config, before its listen */
#define FDS (sizeof(struct legacy_fds) / sizeof(int32_t))

/* Sizes as well as versions: a version that somebody forgot to raise is the worst of all. */
const char *
legacy_abi(char text[static LEGACY_ABI])
{
	snprintf(text, LEGACY_ABI,
	    "legacy=%d/%zu region=%d/%zu/%zu/%zu hold=%zu account=%zu key=%zu ring=%zu/%zu "
	    "strangers=%zu state=%d records=%d metrics=%016llx",
	    LEGACY_VERSION, sizeof(struct legacy), REGION_VERSION, sizeof(struct region_header),
	    sizeof(struct proc_slot), sizeof(struct region_names), sizeof(struct hold),
	    sizeof(struct account), sizeof(struct key_entry), sizeof(struct ring),
	    sizeof(struct ring_entry), sizeof(struct stranger_set), STATE_FORMAT, JOURNAL_VERSION_TOLD,
	    (unsigned long long)metrics_layout());
	return text;
}

/* The next of the texts; NULL: they are not all there. */
static const char *
next_text(const struct legacy *l, size_t *at)
{
	const char *text = l->text + *at;
	size_t len = strnlen(text, sizeof l->text - *at);

	if (*at + len >= sizeof l->text)
		return NULL;
	*at += len + 1;
	return text;
}

static bool
add_text(struct legacy *l, size_t *at, const char *text)
{
	size_t size = strlen(text) + 1;

	if (size > sizeof l->text - *at)
		return false;
	memcpy(l->text + *at, text, size);
	*at += size;
	return true;
}

static bool
put_config(struct legacy *l, const struct config *c)
{
	size_t at = 0;
	bool good = add_text(l, &at, c->user) && add_text(l, &at, c->admin_listen) &&
	            add_text(l, &at, c->state_dir) && add_text(l, &at, c->runtime_dir) &&
	            add_text(l, &at, c->admin_group) && add_text(l, &at, c->admin_full_group) &&
	            add_text(l, &at, c->log_file);

	l->workers = (uint32_t)c->workers;
	l->max_accounts = c->ledger.max_accounts;
	l->max_holds = c->ledger.max_holds;
	l->max_body = c->max_body;
	l->sandbox = (uint32_t)c->sandbox;
	l->core_files = c->core_files;
	l->listen_count = (uint32_t)c->listen_count;
	for (int i = 0; i < c->listen_count && good; i++)
		good = add_text(l, &at, c->listen[i]);
	for (const char *path; good && (path = sockets_bound(l->bound_count)) != NULL;
	    l->bound_count++)
		good = add_text(l, &at, path);
	return good;
}

static void
put_fds(struct legacy_fds *f, const struct setup *up)
{
	const struct heritage *h = &up->heritage;

	f->region = h->region.fd;
	f->pid = up->pid_fd;
	f->state = up->state_fd;
	f->record = h->config_record;
	f->admin_http = h->admin_http_fd;
	f->admin_unix = h->admin_unix_fd;
	for (int i = 0; i < CONFIG_LISTEN_MAX; i++)
		for (int w = 0; w < 2 * REGION_WORKERS_MAX; w++)
			f->listen[i][w] = h->listen_fd[i][w];
	for (int p = 0; p < REGION_PROCS_MAX; p++) {
		f->wake[p] = h->wake_fd[p];
		f->inbox_rd[p] = h->inbox_rd[p];
		f->inbox_wr[p] = h->inbox_wr[p];
		f->order_ours[p] = h->order_ours[p];
		f->order_theirs[p] = h->order_theirs[p];
	}
}

/* Each of them: FD_CLOEXEC off or on. */
static void
inherit(const struct legacy_fds *f, bool on)
{
	int32_t fd[FDS];

	memcpy(fd, f, sizeof fd);
	for (size_t i = 0; i < FDS; i++)
		if (fd[i] >= 0)
			(void)fcntl(fd[i], F_SETFD, on ? 0 : FD_CLOEXEC);
}

void
legacy_inherit(const struct setup *up, bool on)
{
	static struct legacy_fds f;

	put_fds(&f, up);
	inherit(&f, on);
}

int
legacy_write(struct legacy *l, const struct setup *up, const struct supervisor *s)
{
	int fd = memfd_create("tolld: legacy", 0); /* exec keeps it */

	l->magic = MAGIC;
	l->version = LEGACY_VERSION;
	l->size = sizeof *l;
	l->generation = up->heritage.generation;
	snprintf(l->program, sizeof l->program, "%s", tolld_version);
	put_fds(&l->fd, up);
	l->admin_full_gid = (uint32_t)up->heritage.admin_full_gid;
	for (int i = 0; i < CONFIG_LISTEN_MAX; i++)
		l->listen_passed[i] = up->heritage.listen_passed[i];
	for (uint32_t p = 0; p < s->procs; p++) {
		const struct child *c = &s->child[p];

		l->child[p] = (struct legacy_child){
		    .pid = c->state == CHILD_RUNNING ? c->pid : 0,
		    .wanted = c->wanted,
		    .leaving = c->leaving,
		    .starts = c->starts,
		    .started_us = c->started_us,
		};
	}
	if (fd < 0)
		return -1;
	if (put_config(l, up->heritage.config) && write(fd, l, sizeof *l) == (ssize_t)sizeof *l)
		return fd;
	close(fd);
	errno = E2BIG;
	return -1;
}

int
legacy_given(void)
{
	const char *text = getenv(LEGACY_VARIABLE);
	char *end;
	long fd;

	if (text == NULL)
		return -1;
	fd = strtol(text, &end, 10);
	if (end == text || *end != '\0' || fd < 0 || fd > INT32_MAX)
		fd = INT32_MAX; /* none: to be complained of */
	unsetenv(LEGACY_VARIABLE);
	(void)fcntl((int)fd, F_SETFD, FD_CLOEXEC);
	return (int)fd;
}

const struct legacy *
legacy_read(int fd, const char **why)
{
	static struct legacy l;
	ssize_t n = pread(fd, &l, sizeof l, 0);

	close(fd);
	*why = NULL;
	if (n != (ssize_t)sizeof l || l.magic != MAGIC || l.version != LEGACY_VERSION ||
	    l.size != sizeof l)
		*why = "what the program before left is not of this version";
	else if (l.listen_count > CONFIG_LISTEN_MAX || l.workers > REGION_WORKERS_MAX)
		*why = "what the program before left is damaged";
	if (*why != NULL)
		return NULL;
	inherit(&l.fd, false);
	return &l;
}

struct config *
legacy_config(const struct legacy *l, const char *path)
{
	static struct config now;
	char *said = NULL, *line, *rest;
	size_t size, at = 0;
	FILE *errors = open_memstream(&said, &size);
	struct config *c = NULL;
	const char *text[TEXTS + CONFIG_LISTEN_MAX];
	bool good = true;

	for (uint32_t i = 0; i < TEXTS + l->listen_count; i++)
		good = good && (text[i] = next_text(l, &at)) != NULL;
	if (good && errors != NULL)
		c = config_record_read(l->fd.record, path, true, errors);
	if (errors != NULL)
		fclose(errors);
	for (rest = said; c == NULL && (line = strsep(&rest, "\n")) != NULL;)
		if (*line != '\0')
			log_warnx("%s", line);
	free(said);
	if (c == NULL)
		return NULL;
	now.user = (char *)(uintptr_t)text[0];
	now.admin_listen = (char *)(uintptr_t)text[1];
	now.state_dir = (char *)(uintptr_t)text[2];
	now.runtime_dir = (char *)(uintptr_t)text[3];
	now.admin_group = (char *)(uintptr_t)text[4];
	now.admin_full_group = (char *)(uintptr_t)text[5];
	now.log_file = (char *)(uintptr_t)text[6];
	now.sandbox = (enum sandbox_mode)l->sandbox;
	now.core_files = l->core_files != 0;
	now.workers = (int)l->workers;
	now.ledger.max_accounts = l->max_accounts;
	now.ledger.max_holds = l->max_holds;
	now.max_body = l->max_body;
	now.listen_count = (int)l->listen_count;
	for (uint32_t i = 0; i < l->listen_count; i++)
		now.listen[i] = (char *)(uintptr_t)text[TEXTS + i];
	for (uint32_t i = 0; i < l->bound_count; i++) {
		const char *bound = next_text(l, &at);

		if (bound != NULL)
			sockets_adopt(bound);
	}
	/* What a reload since the start could not change. */
	config_carry(c, &now, l->max_body, NULL);
	return c;
}

void
legacy_children(const struct legacy *l, struct supervisor *s)
{
	for (uint32_t p = PROC_KEEPER; p < s->procs; p++) {
		const struct legacy_child *from = &l->child[p];
		struct child *c = &s->child[p];

		c->wanted = from->wanted != 0;
		c->leaving = from->leaving != 0;
		c->starts = from->starts;
		c->started_us = from->started_us;
		c->pid = from->pid;
		c->state = from->pid != 0 ? CHILD_RUNNING : c->wanted ? CHILD_WAITING : CHILD_NONE;
	}
}
