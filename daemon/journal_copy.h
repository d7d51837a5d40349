#ifndef DAEMON_JOURNAL_COPY_H
#define DAEMON_JOURNAL_COPY_H

#include <stdint.h>

/*
 * Copy journal.mdb, as it is at one commit, to a new file in dir, and flush it; the keeper goes on.
 * Takes as long as the disk needs.  Not for a process that has the journal open: LMDB breaks if
 * one has a file open twice.  -1 with errno and *why, and then there is no such file.
 */
int journal_copy(const char *state_dir, const char *dir, const char *file, uint64_t *records,
    uint64_t *bytes, const char **why) __attribute__((warn_unused_result));

#endif
