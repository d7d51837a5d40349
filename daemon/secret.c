/*
 * Memory for providers' keys.  Any process.
 *
 * The daemon is not dumpable, so the kernel writes no core of it.  The pages are kept out of what
 * a debugger writes, too, which root may still attach: such a file is sent to others more easily
 * than it should be.
 */
#include "daemon/secret.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "daemon/log.h"

struct head { /* before what the caller gets, on the same pages */
	_Alignas(16) size_t size;
};

void *
secret_new(size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), all = size + sizeof(struct head);
	struct head *h;

	all = (all + page - 1) / page * page;
	h = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (h == MAP_FAILED)
		fatal("memory for secrets");
	if (madvise(h, all, MADV_DONTDUMP) != 0)
		fatal("madvise");
	(void)mlock(h, all); /* RLIMIT_MEMLOCK may be smaller */
	h->size = all;
	return h + 1;
}

char *
secret_strdup(const char *text)
{
	size_t size = strlen(text) + 1;

	return memcpy(secret_new(size), text, size);
}

void
secret_free(void *p)
{
	struct head *h = p;
	size_t size;

	if (p == NULL)
		return;
	h--;
	size = h->size;
	explicit_bzero(h, size);
	munmap(h, size);
}

void
secret_no_core(void)
{
	if (prctl(PR_SET_DUMPABLE, 0) != 0)
		fatal("prctl");
}

void
secret_allow_core(bool allowed)
{
	if (prctl(PR_SET_DUMPABLE, allowed ? 1 : 0) != 0)
		fatal("prctl");
}

void
secret_forget_environment(const char *key)
{
	if (*key == '\0')
		return;
	for (char **e = environ; e != NULL && *e != NULL; e++) {
		char *value = strchr(*e, '=');

		if (value != NULL && strstr(value, key) != NULL)
			explicit_bzero(value + 1, strlen(value + 1));
	}
}
