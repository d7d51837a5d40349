#ifndef DAEMON_SIGHT_H
#define DAEMON_SIGHT_H

/*
 * Users on first sight.  A key with KEY_TRUST_USER names in a header whose request it is
 * (auth_user); a user whom nobody has seen yet gets an account before the request goes on.  Worker.
 *
 *	worker   finds no account of that id: pushes a SIGHT record, keeps the request, waits
 *	keeper   makes the account, with the config's first credit and overdraft in the same record,
 *	         if the key may make one more.  Of two workers that ask for one user at the same
 *	         time the second is told RING_EXISTS and the same number: it attaches.
 *	worker   once that is durable, calls the route's handler with the account.
 *
 * An account is never removed, and none is made twice: so the first credit is given once for ever.
 * Whoever dies meanwhile: the account was made or it was not, and the next request finds out.
 */
#include "daemon/conn.h"
#include "daemon/worker.h"

/* For server_on_unseen. */
conn_handler sight_handler;
/* The disk does not answer: who waits is refused. */
void sight_give_up(struct worker *);
/* At the worker's end. */
void sight_fini(struct worker *);

#endif
