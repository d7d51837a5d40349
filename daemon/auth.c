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

#include "daemon/log.h"

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

/* "Bearer" SP+ token; false if it is another scheme. */
static bool
bearer_token(struct span authorization, struct span *token)
{
	size_t at = 6;

	if (authorization.p == NULL || authorization.len < 7 ||
	    !span_case_eq((struct span){authorization.p, 6}, "bearer") || authorization.p[6] != ' ')
		return false;
	while (at < authorization.len && authorization.p[at] == ' ')
		at++;
	*token = (struct span){authorization.p + at, authorization.len - at};
	return token->len > 0;
}

enum auth_result
auth_bearer(const struct region *region, const uint8_t secret[static 32], struct span authorization,
    uint64_t now_us, struct account **account, struct key_entry **key)
{
	struct key_entry *found;
	struct span token;
	uint8_t hash[32];
	uint32_t flags;

	*account = NULL;
	*key = NULL;
	if (!bearer_token(authorization, &token))
		return AUTH_MISSING;
	/* What can't be a key of ours isn't worth a hash. */
	if (token.len != AUTH_KEY_LEN || memcmp(token.p, PREFIX, PREFIX_LEN) != 0)
		return AUTH_UNKNOWN;
	auth_hash(secret, token.p, token.len, hash);
	found = key_find(region, hash);
	if (found == NULL)
		return AUTH_UNKNOWN;
	/* Acquire: revoking is acknowledged once it is visible here, and is never undone. */
	flags = atomic_load_explicit(&found->flags, memory_order_acquire);
	if ((flags & KEY_REVOKED) != 0)
		return AUTH_REVOKED;
	if (found->expires_us != 0 && found->expires_us <= now_us)
		return AUTH_EXPIRED;
	*account = account_at(region, found->account);
	if (*account == NULL)
		return AUTH_UNKNOWN;
	*key = found;
	return AUTH_OK;
}
