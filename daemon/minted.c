/*
 * Minted keys as text, and back.  Worker process; pure but for the table of keys.
 */
#include "daemon/minted.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>

#define PREFIX_LEN (sizeof MINTED_PREFIX - 1)
#define MAC_LEN 32
#define BODY_MAX (sizeof(struct minted) + KEY_MODELS_MAX * sizeof(uint64_t))
#define BYTES_MAX (BODY_MAX + MAC_LEN)
#define VERSION 1
/* Nothing else that the secret is used for begins like this: keys begin with "tolld_". */
#define DOMAIN "minted 1"
#define DOMAIN_LEN sizeof(DOMAIN)
_Static_assert(PREFIX_LEN + (BYTES_MAX + 2) / 3 * 4 < MINTED_TEXT_MAX, "its text fits");

static void
mac_of(
    const uint8_t secret[static 32], const uint8_t *body, size_t len, uint8_t mac[static MAC_LEN])
{
	char text[DOMAIN_LEN + BODY_MAX];

	memcpy(text, DOMAIN, DOMAIN_LEN);
	memcpy(text + DOMAIN_LEN, body, len);
	auth_hash(secret, text, DOMAIN_LEN + len, mac);
}

/* base64url without padding, and a NUL. */
static size_t
encode(const uint8_t *bytes, size_t len, char *text)
{
	size_t n = (size_t)EVP_EncodeBlock((unsigned char *)text, bytes, (int)len);

	while (n > 0 && text[n - 1] == '=')
		text[--n] = '\0';
	for (size_t i = 0; i < n; i++)
		text[i] = text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i];
	return n;
}

/* The bytes of such a text; 0 if it is not the one text that encode makes of them. */
static size_t
decode(const char *text, size_t len, uint8_t bytes[static BYTES_MAX + 3])
{
	char block[(BYTES_MAX + 2) / 3 * 4 + 1], again[sizeof block];
	size_t padded = (len + 3) / 4 * 4, n;

	if (len == 0 || padded >= sizeof block || len % 4 == 1)
		return 0;
	for (size_t i = 0; i < padded; i++)
		block[i] = i >= len ? '=' : text[i] == '-' ? '+' : text[i] == '_' ? '/' : text[i];
	block[padded] = '\0';
	if (EVP_DecodeBlock(bytes, (const unsigned char *)block, (int)padded) < 0)
		return 0;
	n = len / 4 * 3 + (len % 4 == 0 ? 0 : len % 4 - 1);
	/* Three bytes to four characters: the longest text that fits may be a byte more than that. */
	if (n > BYTES_MAX)
		return 0;
	if (encode(bytes, n, again) != len || memcmp(again, text, len) != 0)
		return 0;
	return n;
}

void
minted_make(const uint8_t secret[static 32], const struct minted *m, const uint64_t model[],
    char text[static MINTED_TEXT_MAX])
{
	uint8_t bytes[BYTES_MAX];
	struct minted head = *m;
	size_t len = sizeof head + m->models * sizeof model[0];

	head.version = VERSION;
	memcpy(bytes, &head, sizeof head);
	if (m->models > 0)
		memcpy(bytes + sizeof head, model, m->models * sizeof model[0]);
	mac_of(secret, bytes, len, bytes + len);
	memcpy(text, MINTED_PREFIX, PREFIX_LEN);
	(void)encode(bytes, len + MAC_LEN, text + PREFIX_LEN);
}

/* What it is good for: as it says, and as its maker is. */
static void
grant(const struct heritage *h, const struct minted *m, const uint8_t *models,
    struct key_entry *maker, struct caller *caller)
{
	caller->account = account_at(&h->region, m->account);
	auth_grant(maker, caller);
	caller->scopes &= m->scopes;
	if (m->models == 0)
		return;
	caller->every_model = false;
	caller->models = m->models;
	memcpy(caller->model, models, m->models * sizeof caller->model[0]);
}

enum auth_result
minted_check(
    const struct heritage *h, const char *text, size_t len, uint64_t now_us, struct caller *caller)
{
	uint8_t bytes[BYTES_MAX + 3], mac[MAC_LEN];
	size_t n = len > PREFIX_LEN ? decode(text + PREFIX_LEN, len - PREFIX_LEN, bytes) : 0;
	struct key_entry *maker;
	struct minted m;

	if (n < sizeof m + MAC_LEN)
		return AUTH_UNKNOWN;
	n -= MAC_LEN;
	mac_of(h->key_secret, bytes, n, mac);
	if (CRYPTO_memcmp(mac, bytes + n, MAC_LEN) != 0)
		return AUTH_UNKNOWN;
	/* From here on it is one that we made, perhaps long ago. */
	memcpy(&m, bytes, sizeof m);
	if (m.version != VERSION || m.models > KEY_MODELS_MAX ||
	    n != sizeof m + m.models * sizeof caller->model[0] ||
	    /* Acquire, pairs with the keeper's insert. */
	    m.account >= atomic_load_explicit(&h->region.h->accounts, memory_order_acquire))
		return AUTH_UNKNOWN;
	maker = key_find_id(&h->region, m.maker_hash, m.maker);
	if (maker == NULL)
		return AUTH_UNKNOWN;
	if ((atomic_load_explicit(&maker->flags, memory_order_acquire) & KEY_REVOKED) != 0)
		return AUTH_REVOKED;
	if (m.expires_us <= now_us || (maker->expires_us != 0 && maker->expires_us <= now_us))
		return AUTH_EXPIRED;
	grant(h, &m, bytes + sizeof m, maker, caller);
	return AUTH_OK;
}
