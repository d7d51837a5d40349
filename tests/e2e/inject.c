/*
 * Has a process that runs make a system call that its own code never makes, as somebody who took
 * it over would: by ptrace, in the program as it is.  For tests/e2e/test_sandbox.py.
 *
 *   inject PID NAME [ARG...]     an ARG is a number, or text: then its address is passed
 *
 * Prints "= RESULT" (an errno is negative), or "signal N" if the call was answered by that, which
 * the process then gets.  x86-64 only; exit 77 where there is no ptrace.
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)

static const struct {
	const char *name;
	long number;
} names[] = {{"open", SYS_open}, {"openat", SYS_openat}, {"execve", SYS_execve},
    {"ptrace", SYS_ptrace}, {"socket", SYS_socket}, {"connect", SYS_connect}, {"bind", SYS_bind},
    {"listen", SYS_listen}, {"kill", SYS_kill}, {"fork", SYS_fork}, {"clone", SYS_clone},
    {"mmap", SYS_mmap}, {"unlink", SYS_unlink}, {"mount", SYS_mount}, {"setuid", SYS_setuid},
    {"prctl", SYS_prctl}, {"tgkill", SYS_tgkill}, {"rt_sigaction", SYS_rt_sigaction},
    {"process_vm_readv", SYS_process_vm_readv}, {"io_uring_setup", SYS_io_uring_setup},
    {"bpf", SYS_bpf}, {"getpid", SYS_getpid}, {"rename", SYS_rename}, {"truncate", SYS_truncate},
    {"unshare", SYS_unshare}, {"chmod", SYS_chmod}, {"symlink", SYS_symlink}, {"mkdir", SYS_mkdir},
    {"prlimit64", SYS_prlimit64}};

static pid_t pid;

static void
must(long result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "inject: %s: %s\n", what, strerror(errno));
	exit(strcmp(what, "attach") == 0 ? 77 : 1);
}

/* It stopped; the signal. */
static int
stopped(void)
{
	int status;

	must(waitpid(pid, &status, __WALL), "wait");
	if (!WIFSTOPPED(status)) {
		printf("gone %d\n", status);
		exit(0);
	}
	return WSTOPSIG(status);
}

static void
copy_to(uintptr_t to, const void *from, size_t n)
{
	struct iovec ours = {(void *)(uintptr_t)from, n}, theirs = {(void *)to, n};

	if (process_vm_writev(pid, &ours, 1, &theirs, 1, 0) != (ssize_t)n)
		must(-1, "write");
}

/* On to the next call's beginning or end. */
static void
to_call(void)
{
	must(ptrace(PTRACE_SYSCALL, pid, 0, 0), "call");
	if (stopped() != (SIGTRAP | 0x80)) {
		fprintf(stderr, "inject: something else came between\n");
		exit(1);
	}
}

int
main(int argc, char **argv)
{
	struct __ptrace_peeksiginfo_args peek = {.nr = 1};
	siginfo_t waiting;
	struct user_regs_struct before, now;
	unsigned long long args[6] = {0};
	uintptr_t text;
	long number = -1;
	int sig;

	if (argc < 3)
		return 2;
	pid = (pid_t)atoi(argv[1]);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(names[i].name, argv[2]) == 0)
			number = names[i].number;
	if (number < 0)
		return 2;
	must(ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD), "attach");
	must(ptrace(PTRACE_INTERRUPT, pid, 0, 0), "interrupt");
	(void)stopped();
	/* The next call that it makes, or makes again after our interruption: ours in its place. */
	to_call();
	must(ptrace(PTRACE_GETREGS, pid, 0, &before), "registers");
	now = before;
	text = before.rsp - 4096;
	for (int i = 3; i < argc && i < 9; i++) {
		char *end;

		args[i - 3] = strtoull(argv[i], &end, 0);
		if (*argv[i] != '\0' && *end == '\0')
			continue;
		copy_to(text, argv[i], strlen(argv[i]) + 1);
		args[i - 3] = text;
		text += (strlen(argv[i]) + 8) / 8 * 8;
	}
	now.orig_rax = (unsigned long long)number;
	now.rdi = args[0];
	now.rsi = args[1];
	now.rdx = args[2];
	now.r10 = args[3];
	now.r8 = args[4];
	now.r9 = args[5];
	must(ptrace(PTRACE_SETREGS, pid, 0, &now), "registers");
	to_call();
	/* A call that was stopped looks like one that returned its own number; the signal waits. */
	if (ptrace(PTRACE_PEEKSIGINFO, pid, &peek, &waiting) == 1 && waiting.si_signo == SIGSYS) {
		must(ptrace(PTRACE_CONT, pid, 0, 0), "go on");
		sig = stopped();
		printf("signal %d\n", sig);
	} else {
		must(ptrace(PTRACE_GETREGS, pid, 0, &now), "registers");
		printf("= %lld\n", (long long)now.rax);
		/* And now its own. */
		before.rax = before.orig_rax;
		before.orig_rax = (unsigned long long)-1;
		before.rip -= 2;
		must(ptrace(PTRACE_SETREGS, pid, 0, &before), "registers");
		sig = 0;
	}
	must(ptrace(PTRACE_DETACH, pid, 0, sig), "detach");
	return 0;
}

#else

int
main(void)
{
	return 77;
}

#endif
