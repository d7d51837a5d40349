#ifndef DAEMON_CONFIG_SOURCE_H
#define DAEMON_CONFIG_SOURCE_H

/*
 * Where a config comes from: its file, the environment, the files that it names.  What was read
 * for one can be recorded and be read again from the record, by processes that have no right to
 * the files (another user's), and must all find the same bytes.  Any process, one config at a
 * time: it is state of the process.
 *
 * A record holds secrets.  It is written to a file in memory and nowhere else.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* From now on, note all that is read in this file; -1: no more.  Then false if that failed. */
bool config_source_record(int fd);
/* From now on, read from this record; NULL: no more.  The bytes stay the caller's. */
void config_source_replay(const char *record, size_t len);
/* Is it a record that is read?  Then what was checked already is not checked by this machine. */
bool config_source_replayed(void);

/* As much of a file as there is, at most `size` bytes; -1 with errno.  Never blocks. */
ssize_t config_source_file(const char *path, char *to, size_t size);
/* An environment's variable, or NULL; valid until the next call. */
const char *config_source_variable(const char *name);

/*
 * Tokenizers are mapped once for the life of a process and found by their names (tokenizer.h); a
 * record has the names.  Note one that was opened; was it noted; the next one's name of the record
 * that is read, with a NUL, from *at on (0 first), or false.
 */
void config_source_note_tokenizer(const char *name);
bool config_source_noted_tokenizer(const char *name);
bool config_source_tokenizer(size_t *at, char *name, size_t size);

/* A hash of all bytes of files that were read since the last call; 0: none. */
uint64_t config_source_hash(void);
/* FNV-1a, going on from `hash` (0: anew); never 0. */
uint64_t config_source_mix(uint64_t hash, const void *bytes, size_t len);

#endif
