#ifndef DAEMON_AUTH_H
#define DAEMON_AUTH_H

/*
 * Who calls, and what may they: the one place that every route asks.
 *
 * API keys are "tolld_" and 40 random base62 characters.  Only an HMAC-SHA-256 of one is kept,
 * keyed with a secret that lies 0600 in state_dir.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "daemon/heritage.h"
#include "daemon/http.h"
#include "shm/account.h"

#define AUTH_KEY_LEN 46
#define AUTH_KEY_ID_LEN 20 /* "key_" and 16 hex digits */

enum auth_result {
	AUTH_OK,
	AUTH_MISSING,   /* nothing that could be a key */
	AUTH_AMBIGUOUS, /* more than one */
	AUTH_UNKNOWN,
	AUTH_REVOKED,
	AUTH_EXPIRED,
	AUTH_TOKEN,      /* a JSON Web Token that is not to be believed */
	AUTH_NO_ACCOUNT, /* a good token, for an account that there is not */
	AUTH_USER,       /* a good key that may name its user, and names it badly */
};

/* Who calls.  Account and key lie in shared memory and stay where they are. */
struct caller {
	struct account *account; /* NULL: a user whom nobody has seen yet (daemon/sight.h) */
	struct key_entry *key;   /* of ours, also of a minted one's maker; NULL: by a token */
	struct key_entry *purse; /* whose cap it spends under (struct hold_terms), or NULL */
	uint32_t scopes;         /* KEY_SCOPE_..., KEY_MINT_OTHERS */
	bool every_model;        /* else these */
	uint32_t models;
	uint64_t model[KEY_MODELS_MAX]; /* key_model */
};

/*
 * Worker: whose request is this?  By "Authorization: Bearer KEY", else by "x-api-key: KEY"; KEY may
 * also be a minted key (daemon/minted.h) or a JSON Web Token (daemon/jwt.h).  All
 * zero in *caller unless AUTH_OK.  Takes nothing; a revoked key is refused from the moment on
 * that its revocation was acknowledged.
 */
enum auth_result auth_request(const struct heritage *, const struct http_request *, uint64_t now_us,
    struct caller *) __attribute__((warn_unused_result));
/*
 * The header in which a key that may (KEY_TRUST_USER) names its user, as OpenWebUI does; the user's
 * account is SIGHT_PREFIX and the value.  AUTH_MISSING: there is none; AUTH_USER: it is there twice,
 * or no account's id; else its id is written.
 */
#define AUTH_USER_HEADER "X-OpenWebUI-User-Id"
enum auth_result auth_user(
    const struct http_request *, char id[static ACCOUNT_ID_MAX], size_t *len);
/*
 * The two halves of it.  What is shown as a key: also, in a WebSocket's handshake, by an offer
 * "bearer.KEY" in Sec-WebSocket-Protocol, since browsers can send nothing else there.
 */
enum auth_result auth_shown(const struct http_request *, bool websocket, struct span *key)
    __attribute__((warn_unused_result));
/* Who shows it? */
enum auth_result auth_shown_by(const struct heritage *, struct span key,
    const struct http_request *, uint64_t now_us, struct caller *)
    __attribute__((warn_unused_result));
/* Is a key still good, later on the connection that `first` has made with it, and for what? */
enum auth_result auth_again(const struct heritage *, struct span key, const struct caller *first,
    uint64_t now_us, struct caller *) __attribute__((warn_unused_result));
/* All that this key is good for, but for the account (for daemon/minted.c). */
void auth_grant(struct key_entry *, struct caller *);
/* May it use this model?  (If not, it is told what it would be told of one that there isn't.) */
bool auth_model(const struct caller *, const char *name);
bool auth_model_named(const struct caller *, const char *name, size_t len);

/* "chat embeddings", in the order of the bits, as RFC 6750 lists scopes. */
#define AUTH_SCOPES_LEN 32
void auth_format_scopes(uint32_t scopes, char text[static AUTH_SCOPES_LEN]);
/* The bit of a scope's name, or 0. */
uint32_t auth_parse_scope(const char *name, size_t len);

void auth_hash(
    const uint8_t secret[static 32], const char *key, size_t len, uint8_t hash[static 32]);
/* A new random key and its id (admin). */
void auth_make_key(char key[static AUTH_KEY_LEN + 1], uint64_t *key_id);
void auth_format_key_id(uint64_t key_id, char text[static AUTH_KEY_ID_LEN + 1]);
int auth_parse_key_id(const char *text, uint64_t *key_id) __attribute__((warn_unused_result));

#endif
