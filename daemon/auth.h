#ifndef DAEMON_AUTH_H
#define DAEMON_AUTH_H

/*
 * API keys: "tolld_" and 40 random base62 characters.  Only an HMAC-SHA-256 of it is kept,
 * keyed with a secret that lies 0600 in state_dir.
 */
#include <stddef.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "shm/account.h"

#define AUTH_KEY_LEN 46
#define AUTH_KEY_ID_LEN 20 /* "key_" and 16 hex digits */

enum auth_result { AUTH_OK, AUTH_MISSING, AUTH_UNKNOWN, AUTH_REVOKED, AUTH_EXPIRED };

void auth_hash(const uint8_t secret[static 32], const char *key, size_t len, uint8_t hash[static 32]);
/* A new random key and its id (admin). */
void auth_make_key(char key[static AUTH_KEY_LEN + 1], uint64_t *key_id);
void auth_format_key_id(uint64_t key_id, char text[static AUTH_KEY_ID_LEN + 1]);
int auth_parse_key_id(const char *text, uint64_t *key_id) __attribute__((warn_unused_result));

/* Check an Authorization header's value ("Bearer KEY"). */
enum auth_result auth_bearer(const struct region *, const uint8_t secret[static 32],
    struct span authorization, uint64_t now_us, struct account **, struct key_entry **);

#endif
