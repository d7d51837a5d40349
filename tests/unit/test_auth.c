/*
 * Goal:   only a whole, known, valid key gets in, and keys are made without bias.
 * Method: keys inserted into an anonymous region; HMAC against RFC 4231; character counts.
 *
 * objs: daemon/auth.o daemon/auth_scope.o daemon/minted.o daemon/jwt.o daemon/json.o daemon/json_value.o daemon/buf.o daemon/http.o daemon/http_chunked.o daemon/log.o shm/account.o shm/money.o shm/region.o shm/ring.o
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/config.h"
#include "daemon/minted.h"

static const uint64_t now = 1000000;

static struct config config;
static struct heritage heritage = {.config = &config, .key_secret = {1, 2, 3}};
static char good[AUTH_KEY_LEN + 1], revoked[AUTH_KEY_LEN + 1], expired[AUTH_KEY_LEN + 1];
static char later[AUTH_KEY_LEN + 1], narrow[AUTH_KEY_LEN + 1], trusted[AUTH_KEY_LEN + 1];

static void
insert(char *text, uint32_t account, uint32_t flags, uint64_t expires_us, const char *model)
{
	struct key_entry k;

	memset(&k, 0, sizeof(k));
	auth_make_key(text, &k.key_id);
	auth_hash(heritage.key_secret, text, AUTH_KEY_LEN, k.hash);
	k.account = account;
	k.flags = flags;
	k.expires_us = expires_us;
	k.scopes = KEY_SCOPE_CHAT | (text == trusted ? KEY_TRUST_USER : KEY_MINT_OTHERS);
	if (model != NULL)
		k.model[k.models++] = key_model(model, strlen(model));
	assert_non_null(key_insert(&heritage.region, &k));
}

static int
setup(void **state)
{
	static const struct region_dims dims = {.workers = 1,
	    .max_accounts = 16,
	    .max_keys = 16,
	    .max_holds = 64,
	    .ring_records = 64,
	    .ring_arena = 4096};
	struct account_books books = {0};

	(void)state;
	assert_int_equal(region_anonymous(&heritage.region, &dims), 0);
	assert_int_equal(region_grow_accounts(&heritage.region, 3), 0);
	assert_int_equal(region_grow_keys(&heritage.region, 4), 0);
	assert_non_null(account_insert(&heritage.region, "alice", 5, &books, 0));
	assert_non_null(account_insert(&heritage.region, "bob", 3, &books, 0));
	assert_non_null(account_insert(&heritage.region, "owui:carol", 10, &books, 0));
	insert(good, 1, 0, 0, NULL);
	insert(revoked, 0, KEY_REVOKED, 1, NULL);
	insert(expired, 0, 0, now, NULL);
	insert(later, 0, 0, now + 1, NULL);
	insert(narrow, 0, 0, 0, "small");
	insert(trusted, 0, 0, 0, NULL);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	region_unmap(&heritage.region);
	return 0;
}

/* Of a request with these headers, each ended by CR LF. */
static enum auth_result
check_head(const char *headers, struct caller *caller)
{
	static const struct caller nobody;
	struct http_request rq;
	struct http_fault fault;
	enum auth_result r;
	size_t scanned = 0, len;
	char head[1000];

	snprintf(head, sizeof head, "GET / HTTP/1.1\r\nHost: x\r\n%s\r\n", headers);
	assert_int_equal(http_parse_head(head, strlen(head), &scanned, &rq, &len, &fault),
	    HTTP_PARSE_OK);
	memset(caller, 0xff, sizeof *caller);
	r = auth_request(&heritage, &rq, now, caller);
	if (r != AUTH_OK)
		assert_memory_equal(caller, &nobody, sizeof nobody);
	else
		assert_true(caller->account != NULL && caller->key != NULL);
	return r;
}

static enum auth_result
check_text(const char *text, struct caller *caller)
{
	char line[2 * MINTED_TEXT_MAX + 32];

	snprintf(line, sizeof line, text == NULL ? "" : "Authorization: %s\r\n", text);
	return check_head(line, caller);
}

static enum auth_result
check(const char *scheme, const char *key)
{
	char text[200];
	struct caller caller;

	snprintf(text, sizeof(text), "%s%s", scheme, key);
	return check_text(text, &caller);
}

static void
answers(void **state)
{
	char other[AUTH_KEY_LEN + 1], text[100];
	struct caller caller;
	uint64_t id;

	(void)state;
	snprintf(text, sizeof(text), "Bearer %s", good);
	assert_int_equal(check_text(text, &caller), AUTH_OK);
	assert_int_equal(caller.account->number, 1);
	assert_int_equal(caller.scopes, KEY_SCOPE_CHAT | KEY_MINT_OTHERS);
	assert_int_equal(check("bEARER   ", good), AUTH_OK);
	assert_int_equal(check("Bearer ", later), AUTH_OK);
	assert_int_equal(check("Bearer ", revoked), AUTH_REVOKED);
	assert_int_equal(check("Bearer ", expired), AUTH_EXPIRED);
	auth_make_key(other, &id);
	assert_int_equal(check("Bearer ", other), AUTH_UNKNOWN);
	assert_int_equal(check("Bearer ", "tolld_"), AUTH_UNKNOWN);
	assert_int_equal(check("Bearer x", good), AUTH_UNKNOWN);
	snprintf(text, sizeof(text), "Bearer %sx", good);
	assert_int_equal(check_text(text, &caller), AUTH_UNKNOWN);
	for (const char **p = (const char *[]){"", "Bearer", "Bearer ", "Basic abc", "Bearer:",
	         "Token x", NULL};
	     *p != NULL; p++)
		assert_int_equal(check_text(*p, &caller), AUTH_MISSING);
	assert_int_equal(check_text(NULL, &caller), AUTH_MISSING);
	assert_int_equal(check("", good), AUTH_MISSING);
}

static void
a_key_in_one_place(void **state)
{
	static const struct {
		const char *headers; /* %1$s: a good key, %2$s: a revoked one */
		enum auth_result want;
	} cases[] = {
	    {"x-api-key: %1$s\r\n", AUTH_OK},
	    {"X-API-KEY:  %1$s \r\n", AUTH_OK},
	    {"x-api-key: %2$s\r\n", AUTH_REVOKED},
	    {"x-api-key: Bearer %1$s\r\n", AUTH_UNKNOWN},
	    {"x-api-key:\r\n", AUTH_MISSING},
	    {"x-api-key: %2$s\r\nAuthorization: Bearer %1$s\r\n", AUTH_OK},
	    {"x-api-key: %1$s\r\nAuthorization: Bearer %2$s\r\n", AUTH_REVOKED},
	    {"x-api-key: %1$s\r\nAuthorization: Basic %2$s\r\n", AUTH_OK},
	    {"x-api-key: %1$s\r\nx-api-key: %1$s\r\n", AUTH_AMBIGUOUS},
	    {"Authorization: Bearer %1$s\r\nauthorization: Bearer %1$s\r\n", AUTH_AMBIGUOUS},
	    {"Authorization: Basic x\r\nauthorization: Bearer %1$s\r\n", AUTH_AMBIGUOUS},
	};
	struct caller caller;
	char headers[300];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(headers, sizeof headers, cases[i].headers, good, revoked);
#pragma GCC diagnostic pop
		assert_int_equal(check_head(headers, &caller), cases[i].want);
	}
}

/* The account of such a request: its number, -1 for one that there is not yet; or what was wrong. */
static enum auth_result
named(const char *key, const char *headers, int *account)
{
	struct http_request rq;
	struct http_fault fault;
	struct caller caller;
	enum auth_result r;
	size_t scanned = 0, len;
	char head[1000];

	snprintf(head, sizeof head, "GET / HTTP/1.1\r\nHost: x\r\nx-api-key: %s\r\n%s\r\n", key,
	    headers);
	assert_int_equal(http_parse_head(head, strlen(head), &scanned, &rq, &len, &fault),
	    HTTP_PARSE_OK);
	r = auth_request(&heritage, &rq, now, &caller);
	*account = caller.account != NULL ? (int)caller.account->number : -1;
	return r;
}

#define NAME "X-OpenWebUI-User-Id: "
#define N59 "12345678901234567890123456789012345678901234567890123456789"

static void
users_of_a_trusted_key(void **state)
{
	static const struct {
		const char *headers;
		enum auth_result want;
		int account;
	} cases[] = {
	    {"", AUTH_OK, 0},
	    {"X-OpenWebUI-User-Email: carol\r\nX-OpenWebUI-User-Name: carol\r\n", AUTH_OK, 0},
	    {NAME "carol\r\n", AUTH_OK, 2},
	    {"x-openwebui-user-id:  carol \r\nX-OpenWebUI-User-Role: admin\r\n", AUTH_OK, 2},
	    {NAME "Carol\r\n", AUTH_OK, -1},
	    {NAME "6f1ed002-ab5d-4a5c-9dd2-7f2f4dd7e2f1\r\n", AUTH_OK, -1},
	    {NAME N59 "\r\n", AUTH_OK, -1},
	    {NAME N59 "0\r\n", AUTH_USER, -1},
	    {NAME "\r\n", AUTH_USER, -1},
	    {NAME "car ol\r\n", AUTH_USER, -1},
	    {NAME "carol,dave\r\n", AUTH_USER, -1},
	    {NAME "car/ol\r\n", AUTH_USER, -1},
	    {NAME "car\xc3\xb6l\r\n", AUTH_USER, -1},
	    {NAME "carol\r\n" NAME "carol\r\n", AUTH_USER, -1},
	    {NAME "carol\r\nx-openwebui-user-id:\r\n", AUTH_USER, -1},
	};
	int account;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		assert_int_equal(named(trusted, cases[i].headers, &account), cases[i].want);
		assert_int_equal(account, cases[i].account);
		/* Whose key it is not: as if it were not there, good or bad. */
		assert_int_equal(named(good, cases[i].headers, &account), AUTH_OK);
		assert_int_equal(account, 1);
	}
	/* Whose own account is closed or frozen has no users. */
	for (uint32_t flag = ACCOUNT_CLOSED; flag <= ACCOUNT_FROZEN; flag <<= 1) {
		atomic_store(&account_at(&heritage.region, 0)->flags, flag);
		assert_int_equal(named(trusted, NAME "carol\r\n", &account), AUTH_OK);
		assert_int_equal(account, 0);
	}
	atomic_store(&account_at(&heritage.region, 0)->flags, 0);
}

static void
models(void **state)
{
	struct caller caller;
	char text[100];

	(void)state;
	snprintf(text, sizeof(text), "Bearer %s", narrow);
	assert_int_equal(check_text(text, &caller), AUTH_OK);
	assert_true(auth_model(&caller, "small"));
	assert_false(auth_model(&caller, "smal"));
	assert_false(auth_model(&caller, ""));
	snprintf(text, sizeof(text), "Bearer %s", good);
	assert_int_equal(check_text(text, &caller), AUTH_OK);
	assert_true(auth_model(&caller, "small"));
	assert_true(auth_model(&caller, "any"));
	/* Nobody may use nothing. */
	assert_false(auth_model(&(struct caller){0}, "small"));
}

/* A minted key that is good in every way but what `change` makes of it. */
static void
mint(struct minted *m, const char *maker, char text[static MINTED_TEXT_MAX], const char *model)
{
	uint64_t models[1] = {model != NULL ? key_model(model, strlen(model)) : 0};
	struct key_entry *k;
	uint8_t hash[32];

	auth_hash(heritage.key_secret, maker, AUTH_KEY_LEN, hash);
	k = key_find(&heritage.region, hash);
	assert_non_null(k);
	m->maker = k->key_id;
	memcpy(&m->maker_hash, hash, sizeof m->maker_hash);
	m->models = model != NULL;
	minted_make(heritage.key_secret, m, models, text);
}

static void
minted_keys(void **state)
{
	struct minted m = {.scopes = KEY_SCOPE_CHAT | KEY_SCOPE_MINT, .account = 0,
	    .expires_us = now + 1};
	char text[MINTED_TEXT_MAX], header[MINTED_TEXT_MAX + 16], changed[MINTED_TEXT_MAX + 16];
	struct caller caller;
	size_t len;
	int account;

	(void)state;
	mint(&m, good, text, NULL);
	snprintf(header, sizeof header, "Bearer %s", text);
	assert_int_equal(check_text(header, &caller), AUTH_OK);
	assert_int_equal(caller.account->number, 0); /* its own, not its maker's */
	assert_true(caller.every_model);
	/* No scope that its maker lacks, and not the right to make others. */
	assert_int_equal(caller.scopes, KEY_SCOPE_CHAT);
	/* Each character of it counts. */
	len = strlen(header);
	for (size_t i = 14; i < len; i++) {
		for (const char *c = "AQgw_-"; *c != '\0'; c++) {
			memcpy(changed, header, sizeof changed);
			changed[i] = *c;
			assert_int_equal(check_text(changed, &caller),
			    changed[i] == header[i] ? AUTH_OK : AUTH_UNKNOWN);
		}
		memcpy(changed, header, sizeof changed);
		changed[i] = '\0';
		assert_int_equal(check_text(changed, &caller), AUTH_UNKNOWN);
	}
	snprintf(changed, sizeof changed, "%s=", header);
	assert_int_equal(check_text(changed, &caller), AUTH_UNKNOWN);
	/* Models: its own, or its maker's. */
	mint(&m, good, text, "small");
	snprintf(header, sizeof header, "Bearer %s", text);
	assert_int_equal(check_text(header, &caller), AUTH_OK);
	assert_true(auth_model(&caller, "small") && !auth_model(&caller, "any"));
	mint(&m, narrow, text, NULL);
	snprintf(header, sizeof header, "Bearer %s", text);
	assert_int_equal(check_text(header, &caller), AUTH_OK);
	assert_true(auth_model(&caller, "small") && !auth_model(&caller, "any"));
	/* Its maker's end is its own. */
	mint(&m, revoked, text, NULL);
	snprintf(header, sizeof header, "Bearer %s", text);
	assert_int_equal(check_text(header, &caller), AUTH_REVOKED);
	mint(&m, expired, text, NULL);
	snprintf(header, sizeof header, "Bearer %s", text);
	assert_int_equal(check_text(header, &caller), AUTH_EXPIRED);
	m.expires_us = now;
	mint(&m, good, text, NULL);
	snprintf(header, sizeof header, "Bearer %s", text);
	assert_int_equal(check_text(header, &caller), AUTH_EXPIRED);
	/* Signed by us and yet of another world: a journal was put back, say. */
	m.expires_us = now + 1;
	m.account = 3;
	mint(&m, good, text, NULL);
	snprintf(header, sizeof header, "Bearer %s", text);
	assert_int_equal(check_text(header, &caller), AUTH_UNKNOWN);
	m.account = 0;
	mint(&m, good, text, NULL);
	heritage.key_secret[31] ^= 1;
	snprintf(header, sizeof header, "Bearer %s", text);
	assert_int_equal(check_text(header, &caller), AUTH_UNKNOWN);
	heritage.key_secret[31] ^= 1;
	/* For one account: it names no users, whatever its maker may. */
	m.account = 1;
	mint(&m, trusted, text, NULL);
	assert_int_equal(named(text, NAME "carol\r\n", &account), AUTH_OK);
	assert_int_equal(account, 1);
	assert_int_equal(named(text, NAME "?\r\n", &account), AUTH_OK);
	m.account = 0;
	/* The longest. */
	m.models = KEY_MODELS_MAX;
	minted_make(heritage.key_secret, &m, (uint64_t[KEY_MODELS_MAX]){0}, text);
	snprintf(header, sizeof header, "Bearer %s", text);
	assert_int_equal(check_text(header, &caller), AUTH_OK);
	assert_false(auth_model(&caller, "small"));
}

/* One of no use may be of any length: a sanitizer sees what is written beside. */
static void
minted_keys_of_each_length(void **state)
{
	char header[2 * MINTED_TEXT_MAX] = "Bearer " MINTED_PREFIX;
	struct caller caller;

	(void)state;
	for (size_t len = strlen(header); len < sizeof header - 1; header[len++] = 'A')
		assert_int_equal(check_text(header, &caller), AUTH_UNKNOWN);
}

static void
scopes(void **state)
{
	char text[AUTH_SCOPES_LEN];

	(void)state;
	auth_format_scopes(0, text);
	assert_string_equal(text, "");
	auth_format_scopes(KEY_SCOPES | KEY_MINT_OTHERS, text);
	assert_string_equal(text, "chat embeddings mint");
	auth_format_scopes(KEY_SCOPE_MINT, text);
	assert_string_equal(text, "mint");
	assert_int_equal(auth_parse_scope("embeddings", 10), KEY_SCOPE_EMBEDDINGS);
	assert_int_equal(auth_parse_scope("embeddings", 9), 0);
	assert_int_equal(auth_parse_scope("", 0), 0);
}

static void
every_changed_character_is_unknown(void **state)
{
	char key[AUTH_KEY_LEN + 1];

	(void)state;
	for (size_t i = 0; i < AUTH_KEY_LEN; i++) {
		memcpy(key, good, sizeof(key));
		key[i] = key[i] == 'a' ? 'b' : 'a';
		assert_int_equal(check("Bearer ", key), AUTH_UNKNOWN);
	}
}

static void
another_secret_knows_nobody(void **state)
{
	(void)state;
	heritage.key_secret[0] ^= 9;
	assert_int_equal(check("Bearer ", good), AUTH_UNKNOWN);
	heritage.key_secret[0] ^= 9;
	assert_int_equal(check("Bearer ", good), AUTH_OK);
}

/* A key of 32 bytes whose last twelve are zero is the HMAC key of RFC 4231's first test case. */
static void
hash_is_hmac_sha_256(void **state)
{
	static const uint8_t want[32] = {0xb0, 0x34, 0x4c, 0x61, 0xd8, 0xdb, 0x38, 0x53, 0x5c, 0xa8,
	    0xaf, 0xce, 0xaf, 0x0b, 0xf1, 0x2b, 0x88, 0x1d, 0xc2, 0x00, 0xc9, 0x83, 0x3d, 0xa7,
	    0x26, 0xe9, 0x37, 0x6c, 0x2e, 0x32, 0xcf, 0xf7};
	uint8_t key[32] = {0}, hash[32];

	(void)state;
	memset(key, 0x0b, 20);
	auth_hash(key, "Hi There", 8, hash);
	assert_memory_equal(hash, want, 32);
}

static void
keys_are_even(void **state)
{
	unsigned count[128] = {0};
	char key[AUTH_KEY_LEN + 1];
	uint64_t id, seen = 0;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		auth_make_key(key, &id);
		assert_int_equal(strlen(key), AUTH_KEY_LEN);
		assert_memory_equal(key, "tolld_", 6);
		for (size_t n = 6; n < AUTH_KEY_LEN; n++)
			count[(unsigned char)key[n]]++;
		seen |= id;
	}
	assert_true(seen == UINT64_MAX);
	/* 800,000 characters, 12,903 of each expected: ten standard deviations are 1,127.  A
	 * bias of modulo 256 would make the first eight 25 % more frequent. */
	for (int c = 0; c < 128; c++) {
		bool base62 =
		    (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');

		if (base62)
			assert_in_range(count[c], 12903 - 1127, 12903 + 1127);
		else
			assert_int_equal(count[c], 0);
	}
}

/* What a WebSocket's handshake shows, with these headers. */
static enum auth_result
shown(const char *headers, bool websocket, char key[static 64])
{
	struct http_request rq;
	struct http_fault fault;
	struct span token = {"", 0};
	size_t scanned = 0, len;
	enum auth_result r;
	char head[1000];

	snprintf(head, sizeof head, "GET / HTTP/1.1\r\nHost: x\r\n%s\r\n", headers);
	assert_int_equal(http_parse_head(head, strlen(head), &scanned, &rq, &len, &fault),
	    HTTP_PARSE_OK);
	r = auth_shown(&rq, websocket, &token);
	snprintf(key, 64, "%.*s", r == AUTH_OK ? (int)token.len : 0, token.p);
	return r;
}

static void
a_websockets_offers(void **state)
{
#define OFFERS "Sec-WebSocket-Protocol: "
	static const struct {
		const char *headers;
		enum auth_result result;
		const char *key;
	} cases[] = {
	    {OFFERS "tolld, bearer.k1\r\n", AUTH_OK, "k1"},
	    {OFFERS "bearer.k1,tolld\r\n", AUTH_OK, "k1"},
	    {OFFERS "\tbearer.a.b-c_d \t,, tolld\r\n", AUTH_OK, "a.b-c_d"},
	    {OFFERS "tolld\r\nsec-websocket-protocol: bearer.k1\r\n", AUTH_OK, "k1"},
	    {OFFERS "bearer.k1\r\nx-api-key: k2\r\n", AUTH_OK, "k2"},
	    {OFFERS "bearer.k1\r\nAuthorization: Bearer k3\r\nx-api-key: k2\r\n", AUTH_OK, "k3"},
	    {OFFERS "bearer.k1, bearer.k2\r\n", AUTH_AMBIGUOUS, ""},
	    {OFFERS "bearer.k1\r\n" OFFERS "bearer.k1\r\n", AUTH_AMBIGUOUS, ""},
	    {OFFERS "bearer.\r\n", AUTH_MISSING, ""},
	    {OFFERS "tolld, Bearer.k1, xbearer.k1, bearer\r\n", AUTH_MISSING, ""},
	    {OFFERS "\r\n", AUTH_MISSING, ""},
	    {OFFERS ",\r\n", AUTH_MISSING, ""},
	    {"", AUTH_MISSING, ""},
	};
	char key[64];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		assert_int_equal(shown(cases[i].headers, true, key), cases[i].result);
		assert_string_equal(key, cases[i].key);
	}
	/* For others they are nothing. */
	assert_int_equal(shown(cases[0].headers, false, key), AUTH_MISSING);
#undef OFFERS
}

static void
key_ids(void **state)
{
	static const char *const bad[] = {"", "key_", "key_00000000000000f",
	    "key_0000000000000000f", "key_000000000000000F", "key_000000000000000g",
	    "Key_000000000000000f", "tol_000000000000000f", "key_ 00000000000000f",
	    "key_+00000000000000f"};
	char text[AUTH_KEY_ID_LEN + 1];
	uint64_t id;

	(void)state;
	for (uint64_t v = 1; v != 0; v <<= 1) {
		auth_format_key_id(v, text);
		assert_int_equal(strlen(text), AUTH_KEY_ID_LEN);
		assert_int_equal(auth_parse_key_id(text, &id), 0);
		assert_true(id == v);
	}
	auth_format_key_id(0xf, text);
	assert_string_equal(text, "key_000000000000000f");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		errno = 0;
		assert_int_equal(auth_parse_key_id(bad[i], &id), -1);
		assert_int_equal(errno, EINVAL);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(answers),
	    cmocka_unit_test(users_of_a_trusted_key),
	    cmocka_unit_test(a_key_in_one_place),
	    cmocka_unit_test(models),
	    cmocka_unit_test(minted_keys),
	    cmocka_unit_test(minted_keys_of_each_length),
	    cmocka_unit_test(scopes),
	    cmocka_unit_test(every_changed_character_is_unknown),
	    cmocka_unit_test(another_secret_knows_nobody),
	    cmocka_unit_test(hash_is_hmac_sha_256),
	    cmocka_unit_test(keys_are_even),
	    cmocka_unit_test(a_websockets_offers),
	    cmocka_unit_test(key_ids),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
