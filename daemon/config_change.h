#ifndef DAEMON_CONFIG_CHANGE_H
#define DAEMON_CONFIG_CHANGE_H

/*
 * From one config to the next: which numbers its models and providers have, what of it has to stay
 * as it is, what is new in it.  Every process goes through the same steps with the same configs,
 * so that all agree.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "daemon/config.h"
#include "shm/region.h"

/*
 * Put models and providers at their numbers.  `enter`: give new names a number (master, before
 * anybody else sees the config); without it they have one already.  NULL, or what is wrong: then
 * the config is as it was.
 */
const char *config_place(struct config *, struct region_names *, bool enter);
/* Master, at a start, before any fork: forget names that the config does not have. */
void config_names_forget(const struct config *, struct region_names *);

/*
 * Keep what cannot change while the daemon runs.  The names of those keys that are another in
 * `next` are added to `restart`, one a line; NULL: nobody wants to know.
 */
void config_carry(struct config *next, const struct config *now, uint32_t max_body_most,
    struct buf *restart);

/* Whose keys were given something else, or are new or gone, a line each; after config_carry. */
void config_describe(const struct config *next, const struct config *now, struct buf *);

/* Is a provider called as before?  Then its connections and breakers may stay. */
bool config_same_provider(const struct config_provider *, const struct config_provider *);

#endif
