/*
 * API keys: made by admin, checked by workers.  A key itself is never kept, logged or compared;
 * only its keyed hash is, so that neither a leaked region nor a leaked backup lets anybody in.
 */
#include "daemon/auth.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/jwt.h"
#include "daemon/log.h"
#include "daemon/minted.h"
#include "shm/journal_record.h"

#define PREFIX "tolld_"
#define PREFIX_LEN (sizeof(PREFIX) - 1)

void
auth_hash(const uint8_t secret[static 32], const char *key, size_t len, uint8_t hash[static 32])
{
	unsigned n = 0;

	if (HMAC(EVP_sha256(), secret, 32, (const unsigned char *)key, len, hash, &n) == NULL ||
	    n != 32)
		fatalx("HMAC-SHA-256 failed");
}

static void
random_bytes(void *out, size_t n)
{
	/* Up to 256 bytes come whole once the kernel's pool is ready; before that it waits. */
	while (getrandom(out, n, 0) != (ssize_t)n)
		if (errno != EINTR)
			fatal("getrandom");
}

void
auth_make_key(char key[static AUTH_KEY_LEN + 1], uint64_t *key_id)
{
	static const char base62[] =
	    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	uint8_t bytes[64];
	size_t at = PREFIX_LEN;

	memcpy(key, PREFIX, PREFIX_LEN);
	while (at < AUTH_KEY_LEN) {
		random_bytes(bytes, sizeof(bytes));
		/* 248 is 4 x 62: bytes from there on would favour the first characters. */
		for (size_t i = 0; i < sizeof(bytes) && at < AUTH_KEY_LEN; i++)
			if (bytes[i] < 248)
				key[at++] = base62[bytes[i] % 62];
	}
	key[at] = '\0';
	OPENSSL_cleanse(bytes, sizeof(bytes));
	random_bytes(key_id, sizeof(*key_id));
}

void
auth_format_key_id(uint64_t key_id, char text[static AUTH_KEY_ID_LEN + 1])
{
	snprintf(text, AUTH_KEY_ID_LEN + 1, "key_%016llx", (unsigned long long)key_id);
}

int
auth_parse_key_id(const char *text, uint64_t *key_id)
{
	uint64_t id = 0;

	if (strlen(text) != AUTH_KEY_ID_LEN || memcmp(text, "key_", 4) != 0)
		goto invalid;
	for (text += 4; *text != '\0'; text++) {
		if (*text >= '0' && *text <= '9')
			id = id << 4 | (uint64_t)(*text - '0');
		else if (*text >= 'a' && *text <= 'f')
			id = id << 4 | (uint64_t)(*text - 'a' + 10);
		else
			goto invalid;
	}
	*key_id = id;
	return 0;
invalid:
	errno = EINVAL;
	return -1;
}

/* "Bearer" SP+ token; none if it is another scheme. */
static struct span
bearer_token(struct span authorization)
{
	size_t at = 6;

	if (authorization.p == NULL || authorization.len < 7 ||
	    !span_case_eq((struct span){authorization.p, 6}, "bearer") || authorization.p[6] != ' ')
		return (struct span){NULL, 0};
	while (at < authorization.len && authorization.p[at] == ' ')
		at++;
	return (struct span){authorization.p + at, authorization.len - at};
}

/* An element of a list, without the blanks around it. */
static struct span
without_blanks(struct span s)
{
	while (s.len > 0 && (*s.p == ' ' || *s.p == '\t'))
		s = (struct span){s.p + 1, s.len - 1};
	while (s.len > 0 && (s.p[s.len - 1] == ' ' || s.p[s.len - 1] == '\t'))
		s.len--;
	return s;
}

/* How many keys are among a WebSocket's offers; *key is the first. */
static int
offered(const struct http_request *rq, struct span *key)
{
	static const char prefix[] = "bearer.";
	const size_t skip = sizeof prefix - 1;
	int n = 0;

	for (int i = 0; i < rq->headers; i++) {
		struct span list = rq->header[i].value;

		if (!span_case_eq(rq->header[i].name, "sec-websocket-protocol"))
			continue;
		while (list.len > 0) {
			const char *comma = memchr(list.p, ',', list.len);
			size_t len = comma != NULL ? (size_t)(comma - list.p) : list.len;
			struct span offer = without_blanks((struct span){list.p, len});

			if (offer.len >= skip && memcmp(offer.p, prefix, skip) == 0 && n++ == 0)
				*key = (struct span){offer.p + skip, offer.len - skip};
			len += comma != NULL;
			list = (struct span){list.p + len, list.len - len};
		}
	}
	return n;
}

/*
 * What the caller shows.  A header that came twice is refused: whatever stands before us may
 * have looked at the other one.
 */
enum auth_result
auth_shown(const struct http_request *rq, bool websocket, struct span *token)
{
	struct span authorization = {NULL, 0}, own = {NULL, 0};
	int given = 0, given_own = 0;

	for (int i = 0; i < rq->headers; i++) {
		if (span_case_eq(rq->header[i].name, "authorization")) {
			authorization = rq->header[i].value;
			given++;
		} else if (span_case_eq(rq->header[i].name, "x-api-key")) {
			own = rq->header[i].value;
			given_own++;
		}
	}
	if (given > 1 || given_own > 1)
		return AUTH_AMBIGUOUS;
	*token = bearer_token(authorization);
	if (token->len == 0)
		*token = own;
	if (token->len == 0 && websocket && offered(rq, token) > 1)
		return AUTH_AMBIGUOUS;
	return token->len > 0 ? AUTH_OK : AUTH_MISSING;
}

void
auth_grant(struct key_entry *key, struct caller *caller)
{
	caller->key = key;
	caller->purse = key->purse.per != KEY_PER_NONE ? key : NULL;
	caller->scopes = key->scopes;
	caller->every_model = key->models == 0;
	/* The table is shared memory, and no count in there is believed. */
	caller->models = key->models < KEY_MODELS_MAX ? key->models : KEY_MODELS_MAX;
	memcpy(caller->model, key->model, caller->models * sizeof caller->model[0]);
}

enum auth_result
auth_user(const struct http_request *rq, char id[static ACCOUNT_ID_MAX], size_t *len)
{
	struct span user = {NULL, 0};
	int given = 0;

	for (int i = 0; i < rq->headers; i++)
		if (span_case_eq(rq->header[i].name, AUTH_USER_HEADER)) {
			user = rq->header[i].value;
			given++;
		}
	if (given == 0)
		return AUTH_MISSING;
	*len = sizeof SIGHT_PREFIX - 1 + user.len;
	if (given > 1 || user.len == 0 || *len > ACCOUNT_ID_MAX)
		return AUTH_USER;
	memcpy(id, SIGHT_PREFIX, sizeof SIGHT_PREFIX - 1);
	memcpy(id + sizeof SIGHT_PREFIX - 1, user.p, user.len);
	return account_id_ok(id, *len) ? AUTH_OK : AUTH_USER;
}

/*
 * Who is charged.  Only for keys of ours themselves: what they minted is for one account, and who
 * signs tokens says whom they are for.  A key whose own account is closed or frozen is good for
 * nobody, and is refused as that account.
 */
static enum auth_result
check_user(const struct heritage *h, const struct http_request *rq, struct caller *caller)
{
	char id[ACCOUNT_ID_MAX];
	size_t len;
	enum auth_result r;

	if ((caller->scopes & KEY_TRUST_USER) == 0)
		return AUTH_OK;
	/* Relaxed: one word; the keeper looks again before it makes an account. */
	if (atomic_load_explicit(&caller->account->flags, memory_order_relaxed) != 0)
		return AUTH_OK;
	r = auth_user(rq, id, &len);
	if (r == AUTH_OK)
		caller->account = account_find(&h->region, id, len);
	else if (r != AUTH_MISSING) {
		memset(caller, 0, sizeof *caller);
		return r;
	}
	return AUTH_OK;
}

static enum auth_result
check_key(const struct heritage *h, struct span token, uint64_t now_us, struct caller *caller)
{
	struct key_entry *key;
	uint8_t hash[32];
	uint32_t flags;

	/* What can't be a key of ours isn't worth a hash. */
	if (token.len != AUTH_KEY_LEN || memcmp(token.p, PREFIX, PREFIX_LEN) != 0)
		return AUTH_UNKNOWN;
	auth_hash(h->key_secret, token.p, token.len, hash);
	/* Neither the index nor the comparison tells by its time how much of a guess was right:
	 * whoever guesses does not know what the secret makes of it. */
	key = key_find(&h->region, hash);
	if (key == NULL)
		return AUTH_UNKNOWN;
	/* Acquire: revoking is acknowledged once it is visible here, and is never undone. */
	flags = atomic_load_explicit(&key->flags, memory_order_acquire);
	if ((flags & KEY_REVOKED) != 0)
		return AUTH_REVOKED;
	if (key->expires_us != 0 && key->expires_us <= now_us)
		return AUTH_EXPIRED;
	caller->account = account_at(&h->region, key->account);
	auth_grant(key, caller);
	return AUTH_OK;
}

/* Whose key is it, whomever it names? */
static enum auth_result
holder(const struct heritage *h, struct span key, uint64_t now_us, struct caller *caller)
{
	memset(caller, 0, sizeof *caller);
	if (key.len > sizeof MINTED_PREFIX - 1 &&
	    memcmp(key.p, MINTED_PREFIX, sizeof MINTED_PREFIX - 1) == 0)
		return minted_check(h, key.p, key.len, now_us, caller);
	if (h->config->jwt_count > 0 && jwt_is_one(key))
		return jwt_check(h, key, now_us, caller);
	return check_key(h, key, now_us, caller);
}

enum auth_result
auth_shown_by(const struct heritage *h, struct span key, const struct http_request *rq,
    uint64_t now_us, struct caller *caller)
{
	enum auth_result result = holder(h, key, now_us, caller);

	return result == AUTH_OK ? check_user(h, rq, caller) : result;
}

enum auth_result
auth_again(const struct heritage *h, struct span key, const struct caller *first, uint64_t now_us,
    struct caller *caller)
{
	enum auth_result result = holder(h, key, now_us, caller);

	/* As check_user has it, of a user that was named then. */
	if (result == AUTH_OK && (caller->scopes & KEY_TRUST_USER) != 0 &&
	    atomic_load_explicit(&caller->account->flags, memory_order_relaxed) == 0)
		caller->account = first->account;
	return result;
}

enum auth_result
auth_request(
    const struct heritage *h, const struct http_request *rq, uint64_t now_us, struct caller *caller)
{
	struct span key;
	enum auth_result result = auth_shown(rq, false, &key);

	memset(caller, 0, sizeof *caller);
	return result == AUTH_OK ? auth_shown_by(h, key, rq, now_us, caller) : result;
}

bool
auth_model(const struct caller *caller, const char *name)
{
	return auth_model_named(caller, name, strlen(name));
}

bool
auth_model_named(const struct caller *caller, const char *name, size_t len)
{
	uint64_t model = key_model(name, len);

	if (caller->every_model)
		return true;
	for (uint32_t i = 0; i < caller->models; i++)
		if (caller->model[i] == model)
			return true;
	return false;
}
