#ifndef SHM_REGION_H
#define SHM_REGION_H

/*
 * The shared mapping: one 0600 file in runtime_dir that all processes inherit at fork.
 * It outlives a crash of all of them (that is what makes recovery exact to the chunk) and is
 * unlinked after a clean shutdown.  Offsets only, never pointers.  Sections start on pages:
 *
 *   header | procs | prices | counters | names | rings | holds | claims | strangers |
 *   key index | keys | account index | accounts
 *
 * Everything but keys and accounts is allocated at creation, so that "no space" is an error at
 * start and never a SIGBUS; keys and accounts grow by chunks that the keeper allocates before
 * it publishes the first entry in them.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/money.h"
#include "shm/ring.h"

#define REGION_MAGIC UINT64_C(0x313044444c4c4f54) /* "TOLLDD01" */
#define REGION_VERSION 16

/* Process slots.  Twice the workers, so that old and new ones can overlap in a reload. */
#define PROC_MASTER 0
#define PROC_KEEPER 1
#define PROC_ADMIN 2
#define PROC_WORKER 3
#define REGION_WORKERS_MAX 64
#define REGION_PROCS_MAX (PROC_WORKER + 2 * REGION_WORKERS_MAX)

/* How big to make it; from the config. */
struct region_dims {
	uint32_t workers;      /* 1..REGION_WORKERS_MAX */
	uint32_t max_accounts; /* up to 2^27 */
	uint32_t max_keys;
	uint32_t max_holds;    /* shared out evenly among admin and worker slots */
	uint32_t ring_records; /* per ring, power of two */
	uint32_t ring_arena;   /* bytes per ring, power of two */
};

#define REGION_PROGRAM_LEN 64

/*
 * A process slot.  Written by the master, except heartbeat, streams, connections and config (the
 * process itself; the master's word on config stands before the process runs).
 * A replacement in the same slot has a higher generation.
 */
struct proc_slot { /* 192 bytes, three lines */
	_Alignas(64) _Atomic uint32_t pid; /* 0: nobody */
	_Atomic uint32_t generation;
	_Atomic uint32_t reaping;      /* its holds are being finished: no new process here */
	_Atomic uint32_t bad;          /* the keeper saw a forged record: kill it (keeper sets) */
	_Atomic uint64_t heartbeat_us; /* CLOCK_MONOTONIC */
	_Atomic uint64_t streams;      /* open streams, for reports (the process itself) */
	_Atomic uint64_t started_s;    /* CLOCK_REALTIME, seconds */
	_Atomic uint32_t connections;  /* of clients, for reports (the process itself) */
	_Atomic uint32_t restarts;     /* times that it was started again since the master's start */
	_Atomic uint32_t config;       /* generation of the config that it runs on (release) */
	_Atomic uint32_t config_refused; /* the one that it could not take (release) */
	_Atomic uint32_t leaving;      /* another one has its place: it goes with its last stream */
	_Alignas(64) struct proc_box { /* a letter from the admin process: shm/mail.h */
		_Atomic uint32_t verb;
		uint32_t slot, generation;
		uint8_t stream_id[16];
	} box;
	_Alignas(64) char version[REGION_PROGRAM_LEN]; /* of its program, with a NUL; for reports */
};
_Static_assert(sizeof(struct proc_slot) == 192, "proc_slot");

#define PRICE_MAX 16384

#define REGION_MODELS_MAX 256
#define REGION_MODEL_NAME 132 /* bytes, with the NUL */
#define REGION_PROVIDERS_MAX 64
#define REGION_PROVIDER_NAME 68

/*
 * Which model and which provider has which number.  Configs come and go; a name keeps its number
 * for as long as the region lives, so that holds, prices and counters mean the same to all
 * processes, whichever config they run on.  Written by the master alone, a row once, before any
 * process gets the config that has it; "" is a number that is free.
 */
struct region_names {
	char model[REGION_MODELS_MAX][REGION_MODEL_NAME];
	char provider[REGION_PROVIDERS_MAX][REGION_PROVIDER_NAME];
};

/* region_header.filled; 0: the tables are empty. */
#define REGION_FILLED 1
#define REGION_FILLED_BEFORE 2 /* by a daemon that is dead: a keeper has yet to agree with it */

/* How a compaction of the journal ended. */
#define COMPACTION_DONE 1
#define COMPACTION_NOTHING 2 /* there was nothing to remove */
#define COMPACTION_FAILED 3

/* The journal's compaction (daemon/compact.h).  Written by the keeper, and `done` and `of` by its
 * helper while it works; read by the admin process.  Relaxed, but for `ended`. */
struct region_compaction { /* 192 bytes */
	_Alignas(64) _Atomic uint64_t before_us; /* what is still to be done; 0: nothing */
	_Atomic uint64_t asked;     /* the last one's number */
	_Atomic uint64_t ended;     /* the last one's that is through (release, after result and why) */
	_Atomic uint32_t result;    /* COMPACTION_... */
	_Atomic uint32_t step;      /* 1..3: proving, storing, removing; 0: none */
	_Atomic uint64_t done, of;  /* of that step */
	_Atomic uint64_t first_seq; /* the first record that is kept */
	char why[128];              /* COMPACTION_FAILED: a text with its NUL */
};
_Static_assert(sizeof(struct region_compaction) == 192, "region_compaction");

/* region_header.draining: is new work taken? */
#define REGION_DRAIN_NONE 0
#define REGION_DRAIN_END 1  /* no more: the daemon ends */
#define REGION_DRAIN_KEEP 2 /* not now: an operator said so, and will say when again */

/* Of the config in force.  Written by the master, for reports; relaxed, but for `offered`. */
struct region_config {
	_Atomic uint32_t generation; /* 1: that of the start; one more with each reload */
	_Atomic uint32_t offered;    /* the latest that processes were sent (release) */
	_Atomic uint32_t failed;     /* 1: the last reload was refused */
	_Atomic uint32_t reloads;    /* how many were tried */
	_Atomic uint64_t loaded_s;   /* CLOCK_REALTIME, seconds, when this one came into force */
};

struct region_header { /* one page */
	uint64_t magic;
	uint32_t version;
	uint32_t header_size;
	struct region_dims dims;
	uint32_t procs;           /* process slots in use: PROC_WORKER + 2 * workers */
	uint32_t holds_per_proc;
	char boot_id[40];         /* /proc/sys/kernel/random/boot_id */
	uint64_t epoch;           /* random; ring positions in the journal belong to it */
	uint64_t hash_seed;       /* of the account index */
	uint64_t size;            /* of the whole file */
	uint64_t procs_at, prices_at, counters_at, rings_at, ring_stride, holds_at;
	uint64_t key_index_at, keys_at, account_index_at, accounts_at;
	uint64_t claims_at;
	uint64_t strangers_at;
	uint64_t names_at;
	uint32_t key_index_len, account_index_len; /* entries, powers of two */
	_Atomic uint32_t filled;  /* REGION_FILLED: the keeper has loaded accounts and keys (release) */
	_Atomic uint32_t clean;   /* all holds closed, all rings durable */

	_Alignas(64) _Atomic uint32_t accounts; /* published accounts; keeper only (release) */
	_Atomic uint32_t keys;                  /* published keys; keeper only (release) */
	_Atomic uint32_t prices;                /* published prices; keeper only (release) */
	_Atomic uint32_t journal_ok;            /* 0: the disk said no; keeper only */
	_Atomic uint32_t draining;              /* master: REGION_DRAIN_... */
	_Atomic uint32_t hurry;                 /* commit now what could wait (shm/wake.h) */
	_Atomic uint64_t journal_seq;           /* last committed sequence; keeper only */
	_Atomic uint64_t projected_seq;         /* what state.mdb has; keeper only */
	/* By index of the model in the config. */
	_Atomic uint32_t model_price[REGION_MODELS_MAX]; /* price id now in force; keeper only */
	_Atomic uint8_t model_price_set[REGION_MODELS_MAX]; /* bits of the kinds that an operator
							       set; keeper only, for reports */
	_Atomic uint32_t model_mean[REGION_MODELS_MAX];  /* daemon/quote.c; any worker, relaxed */
	struct region_config config;
	struct region_compaction compaction;
	/* Wake-ups: "I sleep, write my eventfd".  Each is set and cleared by its process alone. */
	_Alignas(64) _Atomic uint32_t asleep[REGION_PROCS_MAX];
};
_Static_assert(sizeof(struct region_header) <= 4096, "region header");

/* Per process.  The mapping is inherited; this handle is the process's own. */
struct region {
	struct region_header *h;
	unsigned char *base;
	int fd;
	bool leftover; /* it was found with the marks of a crash: reap before serving */
};

/*
 * Master, before any fork.  Open what a crash left in `path` if it is of this boot and layout
 * (then region->leftover is set and its own dims hold), or make it anew.  An exclusive lock on
 * the file is kept, for as long as any child lives that inherited it: -1 with errno EBUSY if
 * another daemon has it; EINVAL with *why if it is no regular file of ours or the dims are out
 * of range; else errno of the system call.  With 0, *why is the reason why a former file was
 * discarded, or NULL.
 */
int region_open(struct region *, const char *path, const struct region_dims *, const char **why)
    __attribute__((warn_unused_result));
/* Master, after an exec: the one that is open already, fd and lock stay.  NULL, or why not. */
const char *region_adopt(struct region *, int fd) __attribute__((warn_unused_result));
/* Master: unmap and unlink (clean shutdown). */
void region_remove(struct region *, const char *path);
/* Tests: the same in anonymous shared memory. */
int region_anonymous(struct region *, const struct region_dims *)
    __attribute__((warn_unused_result));
void region_unmap(struct region *);

struct proc_slot *region_proc(const struct region *, uint32_t proc);
/* The number, from 1, of the worker in a slot: it has two, one for its successor. */
static inline uint32_t
region_worker(const struct region *r, uint32_t proc)
{
	return (proc - PROC_WORKER) % r->h->dims.workers + 1;
}
struct ring *region_ring(const struct region *, uint32_t proc); /* admin and workers only */
struct region_names *region_names(const struct region *);
struct price *region_price(const struct region *, uint32_t price_id);
/*
 * Price id in force for a model of the config: set by the keeper before `filled`, and at any time
 * later (release; the price itself was written before, and never changes).
 */
_Atomic uint32_t *region_model_price(const struct region *, uint32_t model);
_Atomic uint32_t *region_model_mean(const struct region *, uint32_t model);
/* Counters of one process: an array of 64-bit words that only it writes (relaxed). */
_Atomic uint64_t *region_counters(const struct region *, uint32_t proc);

#define REGION_COUNTERS 16384 /* words per process; daemon/metrics.h says which is which */

/* Keeper: back the first n accounts / keys with memory; -1 with ENOSPC. */
int region_grow_accounts(struct region *, uint32_t n) __attribute__((warn_unused_result));
int region_grow_keys(struct region *, uint32_t n) __attribute__((warn_unused_result));

#endif
