#ifndef DAEMON_JWT_H
#define DAEMON_JWT_H

/*
 * JSON Web Tokens (RFC 7519, signed) as an alternative to keys of ours: whoever runs the site's
 * log-in signs them, and the config's jwt blocks say which are believed.  Worker.
 *
 * The config decides by which algorithm and key a token is verified, never the token: its `kid`
 * only chooses among the blocks, and its `alg` must be that block's.
 */
#include <stddef.h>
#include <stdint.h>

#include "daemon/auth.h"

#define JWT_LEN_MAX 4096    /* longer ones are refused unread */
#define JWT_SKEW_SECONDS 60 /* that an issuer's clock may be off, for exp and nbf */

/* Is this in the form of a token? */
bool jwt_is_one(struct span token);
enum auth_result jwt_check(const struct heritage *, struct span token, uint64_t now_us,
    struct caller *) __attribute__((warn_unused_result));

#endif
