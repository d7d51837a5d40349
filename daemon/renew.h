#ifndef DAEMON_RENEW_H
#define DAEMON_RENEW_H

/*
 * A child's side of a reload: the config that the master has checked arrives as a record of what
 * it read, and each process makes its own from that.  Keeper, admin, workers; when their
 * heritage.order_theirs is readable, or region_config.offered has changed.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/heritage.h"
#include "daemon/order.h"

/*
 * Is this order a config that is newer than ours?  Then it is made, for renew_done; its descriptors
 * are closed in any case.  NULL: it is not, or could not be made, which is logged and told to the
 * master.
 */
struct config *renew_make(struct heritage *, uint32_t proc, struct order_received *)
    __attribute__((warn_unused_result));
/*
 * It is in force here (heritage.config), or, if not `good`, could not be put into force; the master
 * is told which.  The other one is let go of.
 */
void renew_done(struct heritage *, uint32_t proc, struct config *, uint32_t generation, bool good);

#endif
