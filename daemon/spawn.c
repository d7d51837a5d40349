/*
 * Forking one child.  The first function runs in the master, what it calls runs in the child.
 */
#include "daemon/spawn.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/sandbox.h"
#include "daemon/secret.h"
#include "daemon/sockets.h"
#include "daemon/title.h"
#include "daemon/tokenizer.h"

static uint32_t workers = 2 * REGION_WORKERS_MAX;

void
spawn_workers(uint32_t n)
{
	workers = n;
}

const char *
spawn_name(uint32_t proc, char text[static 16])
{
	if (proc >= PROC_WORKER)
		snprintf(text, 16, "worker-%u", (unsigned)((proc - PROC_WORKER) % workers + 1) % 1000);
	else
		snprintf(text, 16, "%s", proc == PROC_KEEPER ? "keeper"
		    : proc == PROC_ADMIN                 ? "admin"
		                                         : "master");
	return text;
}

int
spawn_owner(const char *user, struct owner *owner)
{
	const struct passwd *pw;
	*owner = (struct owner){ .change = geteuid() == 0 && *user, .name = user };
	if (!owner->change)
		return 0;
	pw = getpwnam(user);
	if (!pw) {
		log_event(LOG_ERROR, "there is no such user (user = \"\" stays root)", "user", user,
		    NULL);
		return -1;
	}
	owner->name = strdup(user); /* it outlives the config */
	if (!owner->name)
		fatal("start");
	owner->uid = pw->pw_uid;
	owner->gid = pw->pw_gid;
	return 0;
}

static void
set_title(uint32_t proc)
{
	unsigned worker = (unsigned)((proc - PROC_WORKER) % workers) + 1;
	char name[16], title[40];
	spawn_name(proc, name);
	log_set_proc(name);
	if (proc >= PROC_WORKER)
		snprintf(title, sizeof(title), "tolld: worker %u", worker);
	else
		snprintf(title, sizeof(title), "tolld: %s", name);
	title_set(title);
}

/*
 * The group's signals (a terminal's, a service manager's) are for the master, which tells its
 * children in the right order.  What it says stays blocked until the child listens, so that
 * nothing said early is lost.
 */
static void
set_signals(void)
{
	/* Who writes to a file that may not grow hears it by the error. */
	static const int ignored[] = { SIGINT, SIGHUP, SIGTERM, SIGQUIT, SIGPIPE, SIGXFSZ };
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	sigset_t told;
	for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
		if (sigaction(ignored[i], &ignore, NULL) < 0)
			fatal("sigaction");
	sigemptyset(&told);
	sigaddset(&told, CHILD_SIG_DRAIN);
	sigaddset(&told, CHILD_SIG_STOP);
	if (sigprocmask(SIG_SETMASK, &told, NULL) < 0)
		fatal("sigprocmask");
}

static void
drop_privileges(const struct owner *owner)
{
	uid_t r, e, s;
	if (!owner->change)
		return;
	if (initgroups(owner->name, owner->gid) < 0 ||
	    setresgid(owner->gid, owner->gid, owner->gid) < 0 ||
	    setresuid(owner->uid, owner->uid, owner->uid) < 0)
		fatal("cannot become user %s", owner->name);
	/* For good?  Trust the kernel no further than it can be asked. */
	if (getresuid(&r, &e, &s) < 0 || r != owner->uid || e != owner->uid || s != owner->uid ||
	    (owner->uid != 0 && (setuid(0) == 0 || seteuid(0) == 0)))
		fatalx("could become root again");
}

/*
 * Nobody reads the environment any more; a key that came by it is in the config.  And only who
 * calls providers and reads clients' keys needs any at all.
 */
static void
protect_secrets(struct heritage *h, uint32_t proc)
{
	struct config *c = h->config;

	secret_allow_core(c->core_files);
	for (int i = 0; i < c->provider_count; i++)
		for (int j = 0; j < c->provider[i].api_keys; j++)
			secret_forget_environment(c->provider[i].api_key[j]);
	if (proc < PROC_WORKER)
		config_forget_secrets(c);
	if (proc == PROC_KEEPER)
		explicit_bzero(h->key_secret, sizeof(h->key_secret));
}

static void child(struct heritage *, uint32_t proc, const struct owner *, pid_t master)
    __attribute__((noreturn));

static void
child(struct heritage *h, uint32_t proc, const struct owner *owner, pid_t master)
{
	set_title(proc);
	set_signals();
	sockets_keep(h, proc);
	tokenizer_drop_files();
	sandbox_bound_capabilities();
	drop_privileges(owner);
	protect_secrets(h, proc);
	/* After the change of user, which clears it.  A master that died before cannot send it. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		fatal("prctl");
	if (getppid() != master)
		_exit(1);
	/* The master stores the same; whoever of us comes first. */
	atomic_store_explicit(&region_proc(&h->region, proc)->pid, (uint32_t)getpid(),
	    memory_order_relaxed);
	/* A worker has more to set up, and does it itself. */
	if (proc == PROC_KEEPER || proc == PROC_ADMIN)
		sandbox_enter(
		    h->config, proc == PROC_KEEPER ? SANDBOX_KEEPER : SANDBOX_ADMIN);
	exit(proc == PROC_KEEPER ? keeper_main(h)
	    : proc == PROC_ADMIN ? admin_main(h)
	                         : worker_main(h, proc));
}

pid_t
spawn(struct heritage *h, uint32_t proc, const struct owner *owner, int signal_fd)
{
	pid_t master = getpid(), pid;
	fflush(NULL); /* what is buffered must not be written twice */
	pid = fork();
	if (pid == 0) {
		close(signal_fd);
		child(h, proc, owner, master);
	}
	return pid;
}
