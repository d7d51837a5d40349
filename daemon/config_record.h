#ifndef DAEMON_CONFIG_RECORD_H
#define DAEMON_CONFIG_RECORD_H

/*
 * Configs as sealed files in memory: the record of all that was read for one (config_source.h),
 * from which any process of the daemon makes the same config.  It holds keys: it is never written
 * anywhere, and only the master keeps it.
 */
#include <stdbool.h>
#include <stdio.h>

#include "daemon/config.h"

/* An empty one; -1 with errno. */
int config_record_new(void) __attribute__((warn_unused_result));
/* config_load, recorded in it, which is sealed then; also NULL if it could not be. */
struct config *config_record_load(int record, const char *path, FILE *errors)
    __attribute__((warn_unused_result));
/*
 * The config of a record.  With `tokenizers`, those that it names are opened first (the master,
 * who may read their files); without, they are there already.  NULL with a line in `errors`.
 */
struct config *config_record_read(int record, const char *path, bool tokenizers, FILE *errors)
    __attribute__((warn_unused_result));

#endif
