#ifndef TESTS_POWER_RECORD_H
#define TESTS_POWER_RECORD_H

/*
 * What record.so shares with the Python that drives it (tests/power/disk.py has the same).
 *
 * TOLLD_DISK_DIR: the folder whose files are watched (LMDB's lock files are not: they are memory).
 * TOLLD_DISK_LOG: where every change is written to, in the order in which it happened.
 * TOLLD_DISK_FAULTS: a file with a struct disk_faults, mapped; the test writes into it.
 */
#include <stdint.h>

enum disk_event {
	DISK_CREATE = 1, /* payload: its name in the folder */
	DISK_WRITE = 2,  /* payload: the bytes, at `offset` */
	DISK_SYNC = 3,   /* the file's writes so far are on disk */
	DISK_RANGE = 4,  /* the last write to it is on disk: it was O_DSYNC's */
	DISK_LOST = 5,   /* a sync failed: what was not on disk may never get there */
	DISK_SIZE = 6,   /* ftruncate to `offset` */
	DISK_RENAME = 7, /* payload: old name, NUL, new name */
	DISK_UNLINK = 8, /* payload: the name */
	DISK_FOLDER = 9, /* the folder was synced: names made and removed so far are on disk */
};

struct disk_entry {
	uint32_t length; /* of all of it */
	uint32_t event;
	uint64_t inode;
	uint64_t offset;
	uint32_t pid;
	uint32_t error;
};

enum disk_file { DISK_ANY, DISK_JOURNAL, DISK_STATE };

/* How one kind of call fails: with `error`, so many times more (below 0: for ever). */
struct disk_fault {
	int32_t error, left, hits;
};

struct disk_faults {
	struct disk_fault write; /* nothing is written */
	struct disk_fault sync;  /* fdatasync, fsync, msync: nothing is synced */
	struct disk_fault meta;  /* O_DSYNC: written to the page cache, not known to be on disk */
	struct disk_fault part;  /* half is written, and that is what is returned */
	int32_t slow_ms;         /* each sync takes so much longer */
	int32_t only;            /* what fails, or is slow: a file of enum disk_file's */
};

#endif
