/*
 * The shared mapping: made or found again by the master, inherited by all.
 *
 * A file is valid once its magic is there, and the magic is stored last: a kill while it is
 * being made leaves something to be discarded.  A file of another boot is discarded as well (its
 * pages may be of any age after a power cut); what is durable is in the journal.
 */
#include "shm/region.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/account.h"
#include "shm/claim.h"
#include "shm/ledger.h"
#include "shm/stranger.h"

#define PAGE UINT64_C(4096)
#define COUNTERS_BYTES (REGION_COUNTERS * sizeof(uint64_t))
/* Accounts and keys get their memory by so many at once. */
#define GROW 4096u
/* A tag keeps slot + 1 in 20 bits (shm/ledger.c). */
#define HOLDS_MAX ((1u << 20) - 2)

static uint64_t
round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

static bool
power_of_two(uint32_t n, uint32_t least, uint32_t most)
{
	return n >= least && n <= most && (n & (n - 1)) == 0;
}

/* An index at most half full. */
static uint32_t
index_len(uint32_t entries)
{
	uint32_t len = 16;

	while (len < 2 * entries)
		len *= 2;
	return len;
}

static uint64_t
place(uint64_t *at, uint64_t count, uint64_t bytes)
{
	uint64_t start = *at;

	*at += round_up(count * bytes, PAGE);
	return start;
}

/* What is wrong with these dims; NULL if nothing. */
static const char *
dims_wrong(const struct region_dims *d)
{
	if (d->workers < 1 || d->workers > REGION_WORKERS_MAX)
		return "number of workers out of range";
	if (d->max_accounts < 1 || d->max_accounts > 1u << 27)
		return "max_accounts out of range";
	if (d->max_keys < 1 || d->max_keys > 1u << 27)
		return "max_keys out of range";
	if (d->max_holds < 1 + 2 * d->workers || d->max_holds > HOLDS_MAX)
		return "max_holds out of range";
	if (!power_of_two(d->ring_records, 2, 1u << 24))
		return "ring_records is not a power of two in range";
	if (!power_of_two(d->ring_arena, 64, 1u << 30))
		return "ring_arena is not a power of two in range";
	return NULL;
}

/* Fill in what follows from the dims: the same for maker and finder. */
static void
layout(struct region_header *h, const struct region_dims *d)
{
	uint64_t at = PAGE;
	uint32_t rings = 1 + 2 * d->workers;

	h->version = REGION_VERSION;
	h->header_size = sizeof *h;
	h->dims = *d;
	h->procs = PROC_WORKER + 2 * d->workers;
	h->holds_per_proc = d->max_holds / rings;
	h->key_index_len = index_len(d->max_keys);
	h->account_index_len = index_len(d->max_accounts);
	h->ring_stride = round_up(ring_size(d->ring_records, d->ring_arena), PAGE);
	h->procs_at = place(&at, h->procs, sizeof(struct proc_slot));
	h->prices_at = place(&at, PRICE_MAX, sizeof(struct price));
	h->counters_at = place(&at, h->procs, COUNTERS_BYTES);
	h->names_at = place(&at, 1, sizeof(struct region_names));
	h->rings_at = place(&at, rings, h->ring_stride);
	h->holds_at = place(&at, (uint64_t)h->holds_per_proc * rings, sizeof(struct hold));
	h->claims_at = place(&at, CLAIM_WORDS, sizeof(uint32_t));
	h->strangers_at = place(&at, STRANGER_SETS, sizeof(struct stranger_set));
	h->key_index_at = place(&at, h->key_index_len, sizeof(uint64_t));
	h->keys_at = place(&at, d->max_keys, sizeof(struct key_entry));
	h->account_index_at = place(&at, h->account_index_len, sizeof(uint64_t));
	h->accounts_at = place(&at, d->max_accounts, sizeof(struct account));
	h->size = at;
}

/* 0, or -1 with errno: back [from, to) of the file with memory. */
static int
allocate(int fd, uint64_t from, uint64_t to)
{
	int error;

	if (from >= to)
		return 0;
	do
		error = posix_fallocate(fd, (off_t)from, (off_t)(to - from));
	while (error == EINTR);
	errno = error;
	return error == 0 ? 0 : -1;
}

static int
read_boot_id(char id[static 40])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	memset(id, 0, 40);
	if (fd < 0)
		return -1;
	n = read(fd, id, 36);
	close(fd);
	if (n != 36) {
		errno = EIO;
		return -1;
	}
	return 0;
}

static int
map(struct region *region, int fd, uint64_t size)
{
	void *base = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
	    fd, 0);

	if (base == MAP_FAILED)
		return -1;
	region->base = base;
	region->h = base;
	region->fd = fd;
	return 0;
}

/* Make the file's contents anew; the fd stays the caller's on failure. */
static int
make(struct region *region, int fd, const struct region_dims *dims)
{
	struct region_header fresh = {0};

	layout(&fresh, dims);
	if (read_boot_id(fresh.boot_id) < 0)
		return -1;
	if (getrandom(&fresh.epoch, sizeof fresh.epoch, 0) != sizeof fresh.epoch ||
	    getrandom(&fresh.hash_seed, sizeof fresh.hash_seed, 0) != sizeof fresh.hash_seed)
		return -1;
	/* To nothing first: that takes the old magic away before anything else changes, and
	 * what grows back is zeros. */
	if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)fresh.size) < 0 ||
	    allocate(fd, 0, fresh.keys_at) < 0 ||
	    allocate(fd, fresh.account_index_at, fresh.accounts_at) < 0 ||
	    map(region, fd, fresh.size) < 0) {
		int saved = errno;

		/* Give back what a full filesystem needs most. */
		if (ftruncate(fd, 0) < 0)
			saved = errno;
		errno = saved;
		return -1;
	}
	memcpy(region->h, &fresh, sizeof fresh);
	for (uint32_t p = PROC_ADMIN; p < fresh.procs; p++)
		ring_init(region_ring(region, p), dims->ring_records, dims->ring_arena);
	/* Release: the compiler must not move the magic before the rest; a reader of the file
	 * comes only after our lock is gone. */
	__atomic_store_n(&region->h->magic, REGION_MAGIC, __ATOMIC_RELEASE);
	return 0;
}

/* Why a file's header is not one that we can go on with; NULL if it is. */
static const char *
header_wrong(const struct region_header *h, uint64_t file_size)
{
	struct region_header want = {0};
	char boot_id[40];

	if (h->magic != REGION_MAGIC)
		return "was never finished";
	if (h->version != REGION_VERSION || h->header_size != sizeof *h)
		return "has another version's layout";
	if (read_boot_id(boot_id) < 0 || memcmp(boot_id, h->boot_id, sizeof boot_id) != 0)
		return "is from before a reboot";
	if (dims_wrong(&h->dims) != NULL)
		return "is damaged";
	layout(&want, &h->dims);
	if (h->procs != want.procs || h->holds_per_proc != want.holds_per_proc ||
	    memcmp(&h->size, &want.size,
	    offsetof(struct region_header, filled) - offsetof(struct region_header, size)) != 0)
		return "is damaged";
	if (file_size != want.size)
		return "has the wrong size";
	if (atomic_load_explicit(&h->clean, memory_order_relaxed) != 0)
		return "was closed cleanly";
	return NULL;
}

/*
 * Open and lock the file.  A former daemon may unlink it between our open and our lock; then we
 * hold a lock on a file that nobody else will find, so look again.
 */
static int
open_locked(const char *path, const char **why)
{
	struct stat mine, there;
	int fd, saved;

	for (;;) {
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
		if (fd < 0)
			return -1;
		if (fstat(fd, &mine) < 0)
			goto fail;
		if (!S_ISREG(mine.st_mode) || mine.st_uid != geteuid()) {
			*why = "is not a regular file of ours";
			errno = EINVAL;
			goto fail;
		}
		/* flock, not fcntl: it belongs to the open file, so it lasts while any child
		 * that inherited the descriptor lives. */
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			if (errno == EWOULDBLOCK)
				errno = EBUSY;
			goto fail;
		}
		if (stat(path, &there) == 0 && there.st_dev == mine.st_dev &&
		    there.st_ino == mine.st_ino)
			return fd;
		close(fd);
	}
fail:
	saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

int
region_open(struct region *region, const char *path, const struct region_dims *dims,
    const char **why)
{
	struct region_header found;
	struct stat st;
	int fd, saved;

	*why = NULL;
	memset(region, 0, sizeof *region);
	region->fd = -1;
	if ((*why = dims_wrong(dims)) != NULL) {
		errno = EINVAL;
		return -1;
	}
	fd = open_locked(path, why);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) < 0)
		goto fail;
	if (st.st_size > 0) {
		if (pread(fd, &found, sizeof found, 0) != sizeof found)
			*why = "has the wrong size";
		else
			*why = header_wrong(&found, (uint64_t)st.st_size);
		if (*why == NULL) {
			if (map(region, fd, found.size) < 0)
				goto fail;
			region->leftover = true;
			/* Relaxed: before any fork. */
			if (atomic_load_explicit(&region->h->filled, memory_order_relaxed) != 0)
				atomic_store_explicit(&region->h->filled, REGION_FILLED_BEFORE,
				    memory_order_relaxed);
			return 0;
		}
	}
	if (make(region, fd, dims) < 0) {
		saved = errno;
		unlink(path);
		errno = saved;
		goto fail;
	}
	return 0;
fail:
	saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

const char *
region_adopt(struct region *region, int fd)
{
	struct region_header found;
	struct stat st;
	const char *why;

	memset(region, 0, sizeof *region);
	region->fd = -1;
	if (fstat(fd, &st) < 0 || pread(fd, &found, sizeof found, 0) != sizeof found)
		return "cannot be read";
	why = header_wrong(&found, (uint64_t)st.st_size);
	if (why == NULL && map(region, fd, found.size) < 0)
		why = "cannot be mapped";
	return why;
}

int
region_anonymous(struct region *region, const struct region_dims *dims)
{
	int fd, saved;

	memset(region, 0, sizeof *region);
	region->fd = -1;
	if (dims_wrong(dims) != NULL) {
		errno = EINVAL;
		return -1;
	}
	fd = memfd_create("tolld", MFD_CLOEXEC);
	if (fd < 0)
		return -1;
	if (make(region, fd, dims) < 0) {
		saved = errno;
		close(fd);
		errno = saved;
		return -1;
	}
	return 0;
}

void
region_unmap(struct region *region)
{
	if (region->base != NULL)
		munmap(region->base, (size_t)region->h->size);
	if (region->fd >= 0)
		close(region->fd);
	memset(region, 0, sizeof *region);
	region->fd = -1;
}

void
region_remove(struct region *region, const char *path)
{
	/* Unlink under the lock: whoever waits for it finds another file or none. */
	unlink(path);
	region_unmap(region);
}

struct proc_slot *
region_proc(const struct region *region, uint32_t proc)
{
	return (struct proc_slot *)(void *)(region->base + region->h->procs_at) + proc;
}

struct ring *
region_ring(const struct region *region, uint32_t proc)
{
	uint64_t at = region->h->rings_at + (proc - PROC_ADMIN) * region->h->ring_stride;

	return (struct ring *)(void *)(region->base + at);
}

struct price *
region_price(const struct region *region, uint32_t price_id)
{
	return (struct price *)(void *)(region->base + region->h->prices_at) + price_id;
}

struct region_names *
region_names(const struct region *region)
{
	return (struct region_names *)(void *)(region->base + region->h->names_at);
}

_Atomic uint64_t *
region_counters(const struct region *region, uint32_t proc)
{
	uint64_t at = region->h->counters_at + proc * (uint64_t)COUNTERS_BYTES;

	return (_Atomic uint64_t *)(void *)(region->base + at);
}

/*
 * Whole steps of GROW entries, beginning with the first step that has no published entry: those
 * before it are backed already, and where posix_fallocate has to fall back on writing zeros it
 * must not write them over living accounts.
 */
static int
grow(const struct region *region, uint64_t at, uint64_t bytes, uint32_t published, uint32_t n,
    uint32_t most)
{
	uint64_t from = round_up(published, GROW), to = round_up(n, GROW);

	if (n > most) {
		errno = ENOSPC;
		return -1;
	}
	if (to > most)
		to = most;
	return allocate(region->fd, at + from * bytes, at + to * bytes);
}

int
region_grow_accounts(struct region *region, uint32_t n)
{
	const struct region_header *h = region->h;

	/* Relaxed: the keeper's own count. */
	return grow(region, h->accounts_at, sizeof(struct account),
	    atomic_load_explicit(&h->accounts, memory_order_relaxed), n, h->dims.max_accounts);
}

int
region_grow_keys(struct region *region, uint32_t n)
{
	const struct region_header *h = region->h;

	/* Relaxed: the keeper's own count. */
	return grow(region, h->keys_at, sizeof(struct key_entry),
	    atomic_load_explicit(&h->keys, memory_order_relaxed), n, h->dims.max_keys);
}

_Atomic uint32_t *
region_model_price(const struct region *r, uint32_t model)
{
	return &r->h->model_price[model];
}

_Atomic uint32_t *
region_model_mean(const struct region *r, uint32_t model)
{
	return &r->h->model_mean[model];
}
