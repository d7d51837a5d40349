/*
 * The files that a process may open, by Landlock.  Worker, keeper, admin.
 *
 * The list names what is there when it is made.  A file that is replaced by another later is not on
 * it any more, a folder's new files are; so wherever files are replaced (certificates, the
 * resolver's, state.mdb) the folder is listed.
 *
 * - A worker: certificates; what the C library reads to look up a name; tokenizers; state_dir to
 *   read it.  Of its files it may write none but the locks that LMDB's readers take.
 * - The keeper: state_dir.
 * - The admin process makes backups wherever an operator says, so of files it may do what its user
 *   may; it cannot make devices, sockets or links, nor run anything.
 */
#include "daemon/sandbox_private.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/journal.h"
#include "daemon/landlock.h"
#include "daemon/state.h"
#include "daemon/upstream.h"

#define ALL (LANDLOCK_READ | LANDLOCK_WRITE | LANDLOCK_CHANGE)

/* A folder's path cut off its file; "/" for one of the root. */
static void
cut_name(char *path)
{
	char *slash = strrchr(path, '/');

	if (slash != NULL)
		slash[slash == path] = '\0';
}

static int
allow_in(int list, const char *folder, const char *name, unsigned what)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
		return 0; /* nothing can be there */
	return landlock_allow(list, path, what);
}

static int
allow_each(int list, const char *const *paths, size_t n, unsigned what)
{
	for (size_t i = 0; i < n; i++)
		if (landlock_allow(list, paths[i], what) < 0)
			return -1;
	return 0;
}

/*
 * Who manages resolv.conf may replace it at any time (a DHCP client, systemd-resolved), so its
 * folder is listed, wherever a link leads.  Where it is a plain file in /etc that is /etc as far as
 * our user may read it; unless it is mounted there, as in containers: then it stays what it is.
 */
static int
allow_resolver(int list)
{
	static const char *const files[] = {"/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf",
	    "/etc/gai.conf", "/etc/services", "/etc/resolv.conf"};
	char path[PATH_MAX];
	struct stat file, etc;

	if (allow_each(list, files, sizeof files / sizeof *files, LANDLOCK_READ) < 0)
		return -1;
	if (realpath("/etc/resolv.conf", path) == NULL)
		return 0;
	if (stat(path, &file) == 0 && stat("/etc", &etc) == 0 && strncmp(path, "/etc/", 5) == 0 &&
	    file.st_dev != etc.st_dev)
		return 0;
	cut_name(path);
	return landlock_allow(list, path, LANDLOCK_READ);
}

static int
allow_certificates(int list)
{
	static const char *const folders[] = {"/etc/ssl/certs", "/etc/pki", "/etc/ca-certificates",
	    "/usr/share/ca-certificates", "/usr/local/share/ca-certificates"};
	char path[PATH_MAX];
	const char *bundle = upstream_ca_bundle();

	if (allow_each(list, folders, sizeof folders / sizeof *folders, LANDLOCK_READ) < 0)
		return -1;
	if (bundle == NULL || realpath(bundle, path) == NULL)
		return 0;
	cut_name(path);
	return landlock_allow(list, path, LANDLOCK_READ);
}

/* Where the tables that are installed are (daemon/tokenizer.c): a reload may name another. */
static int
allow_tokenizers(int list)
{
	static const char *const places[] = {
	    "tokenizers", "../tokenizers", "../share/tolld/tokenizers"};
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

	if (n < 0)
		return 0;
	self[n] = '\0';
	cut_name(self);
	for (size_t i = 0; i < sizeof places / sizeof *places; i++)
		if (allow_in(list, self, places[i], LANDLOCK_READ) < 0)
			return -1;
	return 0;
}

/* Its folder, where the next log will be; the master makes it. */
static int
allow_log(int list, const struct config *c)
{
	char path[PATH_MAX];

	if (*c->log_file == '\0' ||
	    snprintf(path, sizeof path, "%s", c->log_file) >= (int)sizeof path)
		return 0;
	cut_name(path);
	return landlock_allow(list, path, LANDLOCK_WRITE);
}

static int
allow_worker(int list, const struct config *c)
{
	static const char *const devices[] = {"/dev/urandom", "/dev/random", "/dev/null"};

	if (allow_each(list, devices, sizeof devices / sizeof *devices, LANDLOCK_READ) < 0 ||
	    allow_resolver(list) < 0 || allow_certificates(list) < 0 || allow_tokenizers(list) < 0)
		return -1;
#ifdef TOLLD_FAULTS /* shm/fault.h takes files away */
	if (getenv("TOLLD_FAULTS") != NULL &&
	    landlock_allow(list, getenv("TOLLD_FAULTS"), LANDLOCK_CHANGE) < 0)
		return -1;
#endif
	if (allow_log(list, c) < 0 ||
	    landlock_allow(list, c->state_dir, LANDLOCK_READ) < 0 ||
	    allow_in(list, c->state_dir, JOURNAL_LOCK_FILE, LANDLOCK_READ | LANDLOCK_WRITE) < 0 ||
	    allow_in(list, c->state_dir, STATE_LOCK_FILE, LANDLOCK_READ | LANDLOCK_WRITE) < 0)
		return -1;
	return allow_in(list, c->state_dir, STATE_NEXT_LOCK_FILE, LANDLOCK_READ | LANDLOCK_WRITE);
}

int
sandbox_files_enter(const struct config *c, enum sandbox_role role)
{
	int list = landlock_begin(role == SANDBOX_WORKER), rc;

	if (list < 0)
		return -1;
	if (role == SANDBOX_WORKER)
		rc = allow_worker(list, c);
	else
		rc = landlock_allow(list, role == SANDBOX_ADMIN ? "/" : c->state_dir, ALL);
	if (rc == 0 && role == SANDBOX_KEEPER)
		rc = allow_log(list, c);
#ifdef TOLLD_FAULTS
	if (rc == 0 && role == SANDBOX_KEEPER && getenv("TOLLD_FAULTS") != NULL)
		rc = landlock_allow(list, getenv("TOLLD_FAULTS"), LANDLOCK_CHANGE);
#endif
	if (rc < 0) {
		close(list);
		return -1;
	}
	return landlock_enforce(list);
}
