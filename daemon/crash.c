/*
 * Crash reports.  Any process.
 *
 * A handler runs in the middle of anything, malloc or the log included, so it uses nothing but
 * system calls and memory that is there already: the text is made here, by hand; what is loaded
 * where was noted before; backtrace() was called once before, which loads the unwinder.  The
 * handler has a stack of its own, so that an overflow of the usual one is told, too.
 *
 * The first line goes out before the stack is looked at.  If the stack is damaged, looking at it
 * may fault in turn: then the first signal ends the process, as it would have.
 */
#include "daemon/crash.h"

#include <link.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#if __has_include(<execinfo.h>)
#include <execinfo.h>
#define HAVE_BACKTRACE 1
#endif

#include "daemon/log.h"
#include "daemon/sanitized.h"

#define FRAMES_MAX 64
#define MODULES_MAX 96
#define SYSCALLS_MAX 512
#define STACK_BYTES (64 << 10)
#define LINE_BYTES 4096

struct module {
	uintptr_t base, start, end; /* what offsets count from; its mapping */
	char name[40];
};

static struct module module[MODULES_MAX];
static size_t modules;
static char build_id[41] = "none";
static const char *syscall_name[SYSCALLS_MAX];

void
crash_name_syscall(unsigned number, const char *name)
{
	if (number < SYSCALLS_MAX)
		syscall_name[number] = name;
}

/* Where things are. */

/* Its file's name alone, and nothing in it that a line of the log would have to escape. */
static void
set_name(char to[static 40], const char *path)
{
	const char *name = strrchr(path, '/');
	size_t n = 0;

	name = name != NULL ? name + 1 : path;
	if (*name == '\0')
		name = "tolld"; /* the program itself has none here */
	for (; *name != '\0' && n < 39; name++) {
		bool plain = (*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') ||
		             (*name >= '0' && *name <= '9') || strchr("._-", *name) != NULL;

		to[n++] = plain ? *name : '_';
	}
	to[n] = '\0';
}

/* The linker's SHA-1 over the program, in hexadecimal. */
static void
read_build_id(const struct dl_phdr_info *info, const ElfW(Phdr) * p)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *at = (const uint8_t *)(info->dlpi_addr + p->p_vaddr), *end = at + p->p_memsz;
	size_t align = p->p_align == 8 ? 8 : 4;

	while ((size_t)(end - at) > sizeof(ElfW(Nhdr))) {
		ElfW(Nhdr) note;
		const uint8_t *name = at + sizeof note, *desc;

		memcpy(&note, at, sizeof note);
		desc = name + (note.n_namesz + align - 1) / align * align;
		if (desc > end || note.n_descsz > (size_t)(end - desc))
			return;
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
		    memcmp(name, "GNU", 4) == 0 && note.n_descsz <= sizeof build_id / 2) {
			for (size_t i = 0; i < note.n_descsz; i++) {
				build_id[2 * i] = digits[desc[i] >> 4];
				build_id[2 * i + 1] = digits[desc[i] & 15];
			}
			build_id[2 * note.n_descsz] = '\0';
			return;
		}
		at = desc + (note.n_descsz + align - 1) / align * align;
	}
}

static int
note_module(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct module *m = &module[modules];

	(void)size;
	(void)arg;
	if (modules == MODULES_MAX)
		return 1;
	m->base = info->dlpi_addr;
	m->start = UINTPTR_MAX;
	m->end = 0;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + p->p_vaddr;

		if (p->p_type == PT_NOTE && modules == 0) /* the program comes first */
			read_build_id(info, p);
		if (p->p_type != PT_LOAD)
			continue;
		m->start = start < m->start ? start : m->start;
		m->end = start + p->p_memsz > m->end ? start + p->p_memsz : m->end;
	}
	set_name(m->name, info->dlpi_name);
	modules++;
	return 0;
}

void
crash_modules(void)
{
	modules = 0;
	(void)dl_iterate_phdr(note_module, NULL);
}

/* The text.  From here on all of it may run in a handler. */

struct text {
	char bytes[LINE_BYTES];
	size_t len;
	bool json, first; /* the next field is the line's first */
};

static void
put(struct text *t, const char *s)
{
	/* Some room stays for the end of the line. */
	while (*s != '\0' && t->len < sizeof t->bytes - 4)
		t->bytes[t->len++] = *s++;
}

static void
put_number(struct text *t, uint64_t n, unsigned base, unsigned width)
{
	char digits[24];
	size_t i = sizeof digits - 1;

	digits[i] = '\0';
	do {
		digits[--i] = "0123456789abcdef"[n % base];
		n /= base;
	} while (n > 0 || sizeof digits - 1 - i < width);
	put(t, digits + i);
}

/* Begins a field; its value, which nothing has to be escaped in, follows. */
static void
put_key(struct text *t, const char *key)
{
	if (t->json)
		put(t, t->first ? "{\"" : "\",\"");
	else if (!t->first)
		put(t, " ");
	t->first = false;
	put(t, key);
	put(t, t->json ? "\":\"" : "=");
}

static void
put_field(struct text *t, const char *key, const char *value)
{
	put_key(t, key);
	put(t, value);
}

/* UTC.  gmtime() and strftime() take locks; the calendar is Gregorian since 1970. */
static void
put_time(struct text *t)
{
	struct timespec now;
	uint64_t second, day, era, of_era, year_of_era, of_year, month;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	second = (uint64_t)now.tv_sec % 86400;
	/* Days since 1 March of the year 0: so a leap day is the last of its year. */
	day = (uint64_t)now.tv_sec / 86400 + 719468;
	era = day / 146097;
	of_era = day % 146097;
	year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	month = (5 * of_year + 2) / 153;
	put_key(t, "time");
	put_number(t, year_of_era + era * 400 + (month >= 10), 10, 4);
	put(t, "-");
	put_number(t, month < 10 ? month + 3 : month - 9, 10, 2);
	put(t, "-");
	put_number(t, of_year - (153 * month + 2) / 5 + 1, 10, 2);
	put(t, "T");
	put_number(t, second / 3600, 10, 2);
	put(t, ":");
	put_number(t, second / 60 % 60, 10, 2);
	put(t, ":");
	put_number(t, second % 60, 10, 2);
	put(t, ".");
	put_number(t, (uint64_t)now.tv_nsec / 1000000, 10, 3);
	put(t, "Z");
}

static const struct module *
module_of(uintptr_t address)
{
	for (size_t i = 0; i < modules; i++)
		if (address >= module[i].start && address < module[i].end)
			return &module[i];
	return NULL;
}

static void
put_place(struct text *t, uintptr_t address)
{
	const struct module *m = module_of(address);

	put(t, m != NULL ? m->name : "?");
	if (m != NULL) {
		put(t, "+0x");
		put_number(t, address - m->base, 16, 1);
	}
}

static void
begin(struct text *t, const char *msg)
{
	t->len = 0;
	t->json = log_is_json();
	t->first = true;
	put(t, log_prefix());
	put_time(t);
	put_field(t, "level", "error");
	put_field(t, "proc", log_proc_name());
	put_key(t, "msg");
	put(t, t->json ? "" : "\"");
	put(t, msg);
	put(t, t->json ? "" : "\"");
	put_key(t, "pid");
	put_number(t, (uint64_t)getpid(), 10, 1);
}

static void
end(struct text *t)
{
	memcpy(t->bytes + t->len, t->json ? "\"}\n" : "\n", t->json ? 3 : 1);
	t->len += t->json ? 3 : 1;
	(void)!write(log_descriptor(), t->bytes, t->len);
}

static const char *
signal_name(int sig)
{
	switch (sig) {
	case SIGSEGV:
		return "SIGSEGV";
	case SIGBUS:
		return "SIGBUS";
	case SIGILL:
		return "SIGILL";
	case SIGFPE:
		return "SIGFPE";
	case SIGABRT:
		return "SIGABRT";
	default:
		return "SIGSYS";
	}
}

/* Where it happened, and the word on top of the stack: whence, if it jumped to nowhere. */
static uintptr_t
interrupted(const ucontext_t *context, const uintptr_t **top)
{
	*top = NULL;
#if defined(__x86_64__)
	*top = (const uintptr_t *)context->uc_mcontext.gregs[REG_RSP];
	return (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
	*top = (const uintptr_t *)&context->uc_mcontext.regs[30];
	return (uintptr_t)context->uc_mcontext.pc;
#else
	(void)context;
	return 0;
#endif
}

static void
tell(int sig, const siginfo_t *info, uintptr_t pc)
{
	struct text t;

	begin(&t, "crash");
	put_key(&t, "thread");
	put_number(&t, (uint64_t)syscall(SYS_gettid), 10, 1);
	put_field(&t, "signal", signal_name(sig));
	put_key(&t, "code");
	if (info->si_code < 0)
		put(&t, "-");
	put_number(
	    &t, (uint64_t)(info->si_code < 0 ? -(int64_t)info->si_code : info->si_code), 10, 1);
	if (sig == SIGSYS) {
		unsigned n = (unsigned)info->si_syscall;

		put_key(&t, "syscall");
		put_number(&t, n, 10, 1);
		if (n < SYSCALLS_MAX && syscall_name[n] != NULL)
			put_field(&t, "name", syscall_name[n]);
	} else if (info->si_code > 0) { /* of the kernel's own; else there is a sender */
		put_key(&t, "address");
		put(&t, "0x");
		put_number(&t, (uintptr_t)info->si_addr, 16, 1);
	} else {
		put_key(&t, "sender");
		put_number(&t, (uint64_t)info->si_pid, 10, 1);
	}
	put_key(&t, "pc");
	put_place(&t, pc);
	put_field(&t, "version", TOLLD_VERSION);
	put_field(&t, "build_id", build_id);
	end(&t);
}

static void
tell_trace(uintptr_t pc, const uintptr_t *top)
{
	void *frame[FRAMES_MAX];
	int n = 0, at = 0;
	struct text t;

#ifdef HAVE_BACKTRACE
	n = backtrace(frame, FRAMES_MAX);
	while (at < n && (uintptr_t)frame[at] != pc)
		at++;
#endif
	begin(&t, "crash trace");
	put_field(&t, "build_id", build_id);
	put_key(&t, "trace");
	put(&t, t.json ? "" : "\"");
	put_place(&t, pc);
	/* The unwinder goes no further from where no code is; who called is on top of the stack. */
	if (at >= n - 1 && module_of(pc) == NULL && top != NULL && (uintptr_t)top % 8 == 0 &&
	    (uintptr_t)top >= 4096) {
		put(&t, " ");
		put_place(&t, *top);
	}
	for (int i = at + 1; i < n; i++) {
		put(&t, " ");
		put_place(&t, (uintptr_t)frame[i]);
	}
	put(&t, t.json ? "" : "\"");
	end(&t);
}

#ifndef SANITIZED
static volatile sig_atomic_t telling; /* the first signal, once it came */

static void
handler(int sig, siginfo_t *info, void *context)
{
	const uintptr_t *top;
	uintptr_t pc = interrupted(context, &top);
	sigset_t first;

	if (telling != 0) {
		(void)sigemptyset(&first);
		(void)sigaddset(&first, telling);
		(void)sigprocmask(SIG_UNBLOCK, &first, NULL);
		sig = telling;
	} else {
		telling = sig;
		tell(sig, info, pc);
		tell_trace(pc, top);
	}
	/* SA_RESETHAND has put the default action back; it strikes when we return. */
	(void)syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), sig);
}
#endif

void
crash_init(void)
{
#ifndef SANITIZED
	static const int deadly[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};
	struct sigaction action = {.sa_sigaction = handler};
	stack_t stack = {.ss_size = STACK_BYTES};

	crash_modules();
#ifdef HAVE_BACKTRACE
	void *frame[4];

	(void)backtrace(frame, 4);
#endif
	stack.ss_sp = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stack.ss_sp == MAP_FAILED || sigaltstack(&stack, NULL) < 0)
		fatal("crash reports");
	action.sa_flags = SA_SIGINFO | SA_ONSTACK | (int)SA_RESETHAND;
	(void)sigfillset(&action.sa_mask);
	for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++)
		(void)sigdelset(&action.sa_mask, deadly[i]);
	for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++)
		if (sigaction(deadly[i], &action, NULL) < 0)
			fatal("sigaction");
#else
	(void)tell;
	(void)tell_trace;
	(void)interrupted;
#endif
}
