#ifndef DAEMON_MINTED_H
#define DAEMON_MINTED_H

/*
 * Keys that a key with the scope "mint" makes: short-lived, for one account, no wider than their
 * maker.  They are not kept anywhere: such a key says what it is good for, under a keyed hash with
 * the secret of state_dir.  So making one costs no write and no place in a table, it outlasts any
 * crash, and when it has expired nothing of it is left.  Revoking the maker revokes all of them.
 *
 *   "tolldm_" base64url( struct minted, 64 bits for each model, HMAC-SHA-256 )
 */
#include <stddef.h>
#include <stdint.h>

#include "daemon/auth.h"

#define MINTED_PREFIX "tolldm_"
#define MINTED_SECONDS_MAX 86400
#define MINTED_TEXT_MAX 288

struct minted {
	uint8_t version, scopes; /* KEY_SCOPE_... */
	uint8_t models;          /* 0: those of its maker */
	uint8_t pad;
	uint32_t account;    /* number */
	uint64_t maker;      /* key id */
	uint64_t maker_hash; /* the first bytes of that key's hash: to find it by */
	uint64_t expires_us;
	uint64_t nonce; /* random: no two are the same */
};
_Static_assert(sizeof(struct minted) == 40, "minted");

/* Worker: write one; `m` and its models are checked already. */
void minted_make(const uint8_t secret[static 32], const struct minted *, const uint64_t model[],
    char text[static MINTED_TEXT_MAX]);
/* Worker: whose is it, by its text; caller as from auth_request. */
enum auth_result minted_check(const struct heritage *, const char *text, size_t len,
    uint64_t now_us, struct caller *) __attribute__((warn_unused_result));

#endif
