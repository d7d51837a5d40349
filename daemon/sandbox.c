/*
 * The sandbox: what is asked for, what the kernel has, and the order of things.
 *
 * Files first, since the list of calls does not have what makes the list of files; then the calls.
 * Where a kernel or a container lacks a part the others hold all the same, and it is said once.
 */
#include "daemon/sandbox.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/crash.h"
#include "daemon/landlock.h"
#include "daemon/sandbox_private.h"
#include "daemon/sanitized.h"
#include "daemon/secret.h"

#ifdef SANITIZED
/* They map code, fork and trace themselves: nothing that a list should have. */
static const bool possible = false;
#else
static const bool possible = true;
#endif

static const char *
mode_name(enum sandbox_mode mode)
{
	static const char *const names[] = {"off", "log", "on", "require"};

	return names[mode];
}

static bool
calls_there(void)
{
	return possible && sandbox_calls_there();
}

static int
files_there(void)
{
	return possible ? landlock_version() : 0;
}

void
sandbox_describe(const struct config *c, char *to, size_t size)
{
	bool calls = c->sandbox != SANDBOX_OFF && calls_there();
	int files = c->sandbox >= SANDBOX_ON ? files_there() : 0;
	char landlock[32];

	(void)snprintf(landlock, sizeof landlock, "Landlock %d", files);
	(void)snprintf(to, size, "%s (%s%s%s)", mode_name(c->sandbox),
	    calls       ? "seccomp"
	    : files > 0 ? ""
	                : "none",
	    calls && files > 0 ? ", " : "", files > 0 ? landlock : "");
}

/*
 * Modules of the name service that /etc/nsswitch.conf names for hosts.  "files" and "dns" are the
 * C library's own; the others are loaded at the first look-up, when no code can be any more.
 */
static void
load_name_services(void)
{
	char line[512], module[80];
	FILE *f = fopen("/etc/nsswitch.conf", "re");

	while (f != NULL && fgets(line, sizeof line, f) != NULL) {
		char *rest = line + strspn(line, " \t"), *word;

		if (strncmp(rest, "hosts:", 6) != 0)
			continue;
		rest += 6;
		rest[strcspn(rest, "#")] = '\0';
		while ((word = strsep(&rest, " \t\r\n")) != NULL) {
			size_t n = strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_");

			if (n == 0 || word[n] != '\0' || n > 40)
				continue; /* "[NOTFOUND=return]" */
			(void)snprintf(module, sizeof module, "libnss_%s.so.2", word);
			(void)dlopen(module, RTLD_NOW); /* kept; one that isn't there never is */
		}
	}
	if (f != NULL)
		fclose(f);
}

static void
limit_core(bool allowed)
{
	struct rlimit limit = {0, 0};

	if (!allowed) {
		(void)setrlimit(RLIMIT_CORE, &limit);
		return;
	}
	/* As large as the one who starts us allows. */
	if (getrlimit(RLIMIT_CORE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_CORE, &limit);
	}
}

int
sandbox_prepare(const struct config *c)
{
	bool calls, files;

	limit_core(c->core_files);
	secret_allow_core(c->core_files);
	if (c->sandbox == SANDBOX_OFF)
		return 0;
	calls = calls_there();
	files = c->sandbox == SANDBOX_LOG || files_there() > 0;
	if (!calls || !files) {
		const char *what = !calls && !files ? "seccomp, Landlock"
		                   : !calls         ? "seccomp"
		                                    : "Landlock";

		log_event(c->sandbox == SANDBOX_REQUIRE ? LOG_ERROR : LOG_WARN,
		    "the sandbox is not whole here", "lacks", what, "sandbox",
		    mode_name(c->sandbox), NULL);
		if (c->sandbox == SANDBOX_REQUIRE)
			return -1;
	}
	if (calls) {
		sandbox_calls_name();
		load_name_services();
		crash_modules();
	}
	return 0;
}

void
sandbox_bound_capabilities(void)
{
	for (unsigned long cap = 0; cap < 64; cap++)
		if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1)
			(void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* who may not has none */
}

/* Also of a root that stays root: it is then an ordinary user that owns much. */
static void
drop_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};

	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	/* A service manager may have forbidden the call, having left us none. */
	if (syscall(SYS_capset, &head, none) == 0)
		return;
	if (syscall(SYS_capget, &head, none) < 0 || none[0].permitted != 0 ||
	    none[1].permitted != 0)
		fatal("cannot give up capabilities");
}

static void
failed(const struct config *c, const char *what)
{
	if (c->sandbox == SANDBOX_REQUIRE)
		fatal("sandbox: %s", what);
	log_warn("sandbox: %s", what);
}

void
sandbox_enter(const struct config *c, enum sandbox_role role)
{
	bool files = false;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fatal("prctl");
	drop_capabilities();
	if (c->sandbox >= SANDBOX_ON && files_there() > 0) {
		files = sandbox_files_enter(c, role) == 0;
		if (!files)
			failed(c, "Landlock");
	}
	if (c->sandbox != SANDBOX_OFF && calls_there() &&
	    sandbox_calls_enter(role, files, c->sandbox == SANDBOX_LOG) < 0)
		failed(c, "seccomp");
}
