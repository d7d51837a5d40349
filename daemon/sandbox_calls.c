/*
 * The system calls that a process may make: a list for each kind, by libseccomp.  Worker, keeper,
 * admin.
 *
 * The kernel looks a call up in the list each time.  For those without conditions on their
 * arguments, which are all of a stream's road, it remembers the answer (since 5.11), so they cost
 * 11 ns each; the rest is compiled as a tree.
 *
 * What is not listed ends the process, by SIGSYS.  Three things are refused with an error instead,
 * because the C library asks for them and goes on without: clone3 (ENOSYS: its flags stand in
 * memory, where no list can look, and clone follows), a unix socket to a name service's daemon,
 * and code that is loaded later (a module of the name service; those that are configured are
 * loaded before).
 */
#include "daemon/sandbox_private.h"

#include <errno.h>

#include "daemon/crash.h"

#ifdef TOLLD_SECCOMP
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WORKER 1u
#define KEEPER 2u
#define ADMIN 4u
#define ALL (WORKER | KEEPER | ADMIN)

#define SYSCALLS_NAMED 512
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

static const struct {
	const char *name;
	unsigned roles;
} calls[] = {
    /* bytes of what is open */
    {"read", ALL},
    {"write", ALL},
    {"readv", ALL},
    {"writev", ALL},
    {"pread64", ALL},
    {"pwrite64", KEEPER | ADMIN},
    {"pwritev", KEEPER | ADMIN},
    {"lseek", ALL},
    {"close", ALL},
    {"close_range", ADMIN}, /* the backup's helper */
    {"fstat", ALL},
    {"fsync", KEEPER | ADMIN},
    {"fdatasync", KEEPER | ADMIN},
    {"ftruncate", ALL}, /* LMDB, of a new reader's lock file */
    {"fallocate", KEEPER | ADMIN},
    {"memfd_create", KEEPER}, /* a checkpoint on its way */
    {"dup", ALL},
    /* names of files; which of them is for Landlock */
    {"stat", ALL},
    {"lstat", ALL},
    {"newfstatat", ALL},
    {"statx", ALL},
    {"access", ALL},
    {"faccessat", ALL},
    {"faccessat2", ALL},
    {"readlink", ALL},
    {"readlinkat", ALL},
    {"statfs", ALL},
    {"fstatfs", ALL},
    {"getdents64", ADMIN | KEEPER},
    {"mkdir", ADMIN},
    {"mkdirat", ADMIN},
    {"unlink", ADMIN | KEEPER},
    {"unlinkat", ADMIN | KEEPER},
    {"rename", ADMIN | KEEPER},
    {"renameat", ADMIN | KEEPER},
    {"renameat2", ADMIN | KEEPER},
#ifdef TOLLD_FAULTS /* shm/fault.h takes files away */
    {"unlink", WORKER},
    {"unlinkat", WORKER},
#endif
    /* memory */
    {"brk", ALL},
    {"munmap", ALL},
    {"mremap", ALL},
    {"madvise", ALL},
    {"mlock", ALL},
    {"munlock", ALL},
    {"msync", KEEPER | ADMIN},
    /* waiting */
    {"epoll_create1", ALL},
    {"epoll_ctl", ALL},
    {"epoll_wait", ALL},
    {"epoll_pwait", ALL},
    {"epoll_pwait2", ALL},
    {"poll", ALL},
    {"ppoll", ALL},
    {"select", ALL},
    {"pselect6", ALL},
    {"eventfd2", ALL},
    {"timerfd_create", ALL},
    {"timerfd_settime", ALL},
    {"futex", ALL},
    {"pipe2", ALL},
    {"signalfd4", KEEPER},
    {"restart_syscall", ALL},
    {"nanosleep", ALL},
    {"clock_nanosleep", ALL},
    {"sched_yield", ALL},
    {"pause", ALL},
    /* time and chance; most of it by the vDSO */
    {"clock_gettime", ALL},
    {"clock_getres", ALL},
    {"gettimeofday", ALL},
    {"time", ALL},
    {"getrandom", ALL},
    /* connections that are there */
    {"accept4", WORKER | ADMIN},
    {"recvfrom", ALL},
    {"recvmsg", ALL},
    {"recvmmsg", WORKER},
    {"sendto", ALL},
    {"sendmsg", ALL},
    {"sendmmsg", WORKER},
    {"shutdown", ALL},
    {"getsockname", ALL},
    {"getpeername", ALL},
    {"getsockopt", ALL},
    {"setsockopt", ALL},
    /* new ones: the provider, a name server, and the C library's look at our own addresses */
    {"connect", WORKER},
    {"bind", WORKER},
    /* signals, of its own */
    {"rt_sigprocmask", ALL},
    {"rt_sigreturn", ALL},
    {"rt_sigtimedwait", ALL},
    {"sigaltstack", ALL},
    /* threads and helpers */
    {"set_robust_list", ALL},
    {"get_robust_list", ALL},
    {"set_tid_address", ALL},
    {"rseq", ALL},
    {"membarrier", ALL},
    {"wait4", KEEPER | ADMIN},
    {"kill", KEEPER | ADMIN}, /* its helper; others are out of Landlock's scope */
    {"setpriority", KEEPER},
    {"exit", ALL},
    {"exit_group", ALL},
    /* who and where we are */
    {"getpid", ALL},
    {"getppid", ALL},
    {"gettid", ALL},
    {"getuid", ALL},
    {"geteuid", ALL},
    {"getgid", ALL},
    {"getegid", ALL},
    {"getrlimit", ALL},
    {"getrusage", ALL},
    {"sched_getaffinity", ALL},
    {"getcpu", ALL},
    {"uname", ALL},
    {"sysinfo", ALL},
};

struct filter {
	scmp_filter_ctx ctx;
	bool log_only;
	int error; /* the first one, negative; 0 */
};

/* One more way to make a call, or to be told an error.  What this machine lacks is left out. */
static void
rule(struct filter *f, uint32_t action, const char *name, unsigned n,
    const struct scmp_arg_cmp *args)
{
	int call = seccomp_syscall_resolve_name(name), rc;

	if (call < 0 || f->error != 0 || (f->log_only && action != SCMP_ACT_ALLOW))
		return;
	rc = seccomp_rule_add_array(f->ctx, action, call, n, args);
	if (rc < 0 && rc != -EEXIST)
		f->error = rc;
}

/* Of these bits of an argument exactly these are set. */
static struct scmp_arg_cmp
bits_of(unsigned arg, uint32_t mask, uint32_t bits)
{
	return (struct scmp_arg_cmp){arg, SCMP_CMP_MASKED_EQ, mask, bits};
}

/* Only 32 bits of an int are the kernel's; what stands above them must change no answer. */
static struct scmp_arg_cmp
int_is(unsigned arg, uint32_t value)
{
	return bits_of(arg, UINT32_MAX, value);
}

static void
allow_if(struct filter *f, const char *name, unsigned arg, uint32_t value)
{
	rule(f, SCMP_ACT_ALLOW, name, 1, (struct scmp_arg_cmp[]){int_is(arg, value)});
}

static void
allow_bits(struct filter *f, const char *name, unsigned arg, uint32_t mask, uint32_t bits)
{
	rule(f, SCMP_ACT_ALLOW, name, 1, (struct scmp_arg_cmp[]){bits_of(arg, mask, bits)});
}

/* Code comes from nowhere any more. */
static void
memory(struct filter *f)
{
	static const char *const maps[] = {"mmap", "mprotect"};

	for (size_t i = 0; i < 2; i++) {
		allow_bits(f, maps[i], 2, PROT_EXEC, 0);
		rule(f, SCMP_ACT_ERRNO(EACCES), maps[i], 1,
		    (struct scmp_arg_cmp[]){bits_of(2, PROT_EXEC, PROT_EXEC)});
	}
}

static void
descriptors(struct filter *f)
{
	static const uint32_t commands[] = {F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL,
	    F_SETFL, F_GETLK, F_SETLK, F_SETLKW, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW};
	static const uint32_t questions[] = {FIONREAD, FIONBIO, TCGETS};

	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
		allow_if(f, "fcntl", 1, commands[i]);
	for (size_t i = 0; i < sizeof questions / sizeof *questions; i++)
		allow_if(f, "ioctl", 1, questions[i]);
	/* The log's, when it is opened anew. */
	allow_if(f, "dup2", 1, 2);
	allow_if(f, "dup3", 1, 2);
}

static void
processes(struct filter *f, enum sandbox_role role)
{
	static const uint32_t options[] = {
	    PR_SET_NAME, PR_SET_PDEATHSIG, PR_SET_TIMERSLACK, PR_SET_VMA, PR_GET_DUMPABLE};
	const uint32_t spaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
	                        CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_PTRACE;

	for (size_t i = 0; i < sizeof options / sizeof *options; i++)
		allow_if(f, "prctl", 0, options[i]);
	/* The handler of what this list stops cannot be taken away: another signal has a bit that
	 * SIGSYS has not, or lacks one.  (Signals have seven.) */
	for (uint32_t bit = 1; bit <= 64; bit *= 2)
		allow_bits(f, "rt_sigaction", 0, bit, ~(uint32_t)SIGSYS & bit);
	rule(f, SCMP_ACT_ALLOW, "prlimit64", 1, (struct scmp_arg_cmp[]){{2, SCMP_CMP_EQ, 0, 0}});
	rule(f, SCMP_ACT_ERRNO(ENOSYS), "clone3", 0, NULL);
	if (role == SANDBOX_WORKER) {
		/* libcurl's resolver is threads. */
		allow_bits(f, "clone", 0, CLONE_THREAD | spaces, CLONE_THREAD);
		allow_if(f, "tgkill", 0, (uint32_t)getpid());
	} else {
		allow_bits(f, "clone", 0, spaces, 0);
		rule(f, SCMP_ACT_ALLOW, "tgkill", 0, NULL);
	}
}

static void
sockets(struct filter *f, enum sandbox_role role)
{
	static const uint32_t families[] = {AF_INET, AF_INET6}, types[] = {SOCK_STREAM, SOCK_DGRAM};
	const uint32_t type_bits = ~(uint32_t)(SOCK_NONBLOCK | SOCK_CLOEXEC);

	/* Connected to each other, and for ever. */
	rule(f, SCMP_ACT_ALLOW, "socketpair", 2,
	    (struct scmp_arg_cmp[]){int_is(0, AF_UNIX), bits_of(1, type_bits, SOCK_STREAM)});
	if (role != SANDBOX_WORKER)
		return;
	for (size_t i = 0; i < 4; i++)
		rule(f, SCMP_ACT_ALLOW, "socket", 2,
		    (struct scmp_arg_cmp[]){
		        int_is(0, families[i / 2]), bits_of(1, type_bits, types[i % 2])});
	rule(f, SCMP_ACT_ALLOW, "socket", 3,
	    (struct scmp_arg_cmp[]){
	        int_is(0, AF_NETLINK), bits_of(1, type_bits, SOCK_RAW), int_is(2, NETLINK_ROUTE)});
	rule(f, SCMP_ACT_ERRNO(EAFNOSUPPORT), "socket", 1,
	    (struct scmp_arg_cmp[]){int_is(0, AF_UNIX)});
}

static void
files_opened(struct filter *f, enum sandbox_role role, bool files)
{
	static const char *const opens[] = {"openat", "open"};

	for (unsigned i = 0; i < 2; i++) {
		/* O_TMPFILE has O_DIRECTORY's bit, too, which reading a folder needs. */
		const uint32_t changing =
		    O_ACCMODE | O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY);
		const unsigned at = i == 0 ? 2 : 1;

		if (files || role != SANDBOX_WORKER) {
			rule(f, SCMP_ACT_ALLOW, opens[i], 0, NULL);
			continue;
		}
		allow_bits(f, opens[i], at, changing, O_RDONLY);
		/* The log. */
		allow_bits(f, opens[i], at, changing | O_APPEND, O_WRONLY | O_APPEND);
		rule(f, SCMP_ACT_ERRNO(EACCES), opens[i], 1,
		    (struct scmp_arg_cmp[]){bits_of(at, O_ACCMODE, O_RDWR)});
	}
}

bool
sandbox_calls_there(void)
{
	const uint32_t trap = SECCOMP_RET_TRAP;

	return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &trap) == 0;
}

void
sandbox_calls_name(void)
{
	for (unsigned i = 0; i < SYSCALLS_NAMED; i++)
		crash_name_syscall(i, seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, (int)i));
}

/* Attributes first: some of them say how rules are taken. */
static void
set_attributes(struct filter *f)
{
	static const struct {
		enum scmp_filter_attr attribute;
		uint32_t value;
	} attributes[] = {
	    {SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS},
	    {SCMP_FLTATR_CTL_TSYNC, 1},
	    {SCMP_FLTATR_CTL_OPTIMIZE, 2}, /* a tree */
	    /* Older kernels slow a process with a list down against Spectre 4; ours runs no code
	     * but its own. */
	    {SCMP_FLTATR_CTL_SSB, 1},
	};

	for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++)
		(void)seccomp_attr_set(f->ctx, attributes[i].attribute, attributes[i].value);
}

int
sandbox_calls_enter(enum sandbox_role role, bool files, bool log_only)
{
	const unsigned mine = role == SANDBOX_WORKER   ? WORKER
	                      : role == SANDBOX_KEEPER ? KEEPER
	                                               : ADMIN;
	struct filter f = {.log_only = log_only};

	f.ctx = seccomp_init(log_only ? SCMP_ACT_LOG : SCMP_ACT_TRAP);
	if (f.ctx == NULL) {
		errno = ENOMEM;
		return -1;
	}
	set_attributes(&f);
	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
		if (calls[i].roles & mine)
			rule(&f, SCMP_ACT_ALLOW, calls[i].name, 0, NULL);
	memory(&f);
	descriptors(&f);
	processes(&f, role);
	sockets(&f, role);
	files_opened(&f, role, files);
	if (f.error == 0)
		f.error = seccomp_load(f.ctx);
	seccomp_release(f.ctx);
	errno = -f.error;
	return f.error == 0 ? 0 : -1;
}

#else /* a build without libseccomp */

bool
sandbox_calls_there(void)
{
	return false;
}

void
sandbox_calls_name(void)
{
}

int
sandbox_calls_enter(enum sandbox_role role, bool files, bool log_only)
{
	(void)role;
	(void)files;
	(void)log_only;
	errno = ENOSYS;
	return -1;
}

#endif
