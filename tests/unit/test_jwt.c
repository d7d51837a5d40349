/*
 * Goal:   a token is believed if the key that its config block names signed it, by that block's
 *         algorithm, for us, and now; no other one is, whatever it says of itself.
 * Method: sign tokens here by OpenSSL, right but for one thing each; every changed character;
 *         noise.
 *
 * objs: daemon/auth.o daemon/auth_scope.o daemon/minted.o daemon/jwt.o daemon/json.o daemon/json_value.o
 * objs: daemon/utf8.o daemon/buf.o daemon/log.o shm/account.o shm/money.o shm/region.o shm/ring.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include "daemon/jwt.h"

#define NOW UINT64_C(1800000000)
#define SECRET "a secret of no fewer than 32 bytes"
#define CLAIMS "\"sub\":\"alice\",\"aud\":\"us\",\"exp\":1800000100"

static struct config config;
static struct heritage heritage = {.config = &config};
static EVP_PKEY *rsa, *ec;

static size_t
encode(const void *bytes, size_t len, char *text)
{
	size_t n = (size_t)EVP_EncodeBlock((unsigned char *)text, bytes, (int)len);

	while (n > 0 && text[n - 1] == '=')
		text[--n] = '\0';
	for (size_t i = 0; i < n; i++)
		text[i] = text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i];
	return n;
}

/* As JOSE has it: r and s, 32 bytes each. */
static size_t
raw_ec(const unsigned char *der, size_t len, unsigned char out[static 64])
{
	ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &der, (long)len);

	assert_non_null(sig);
	assert_int_equal(BN_bn2binpad(ECDSA_SIG_get0_r(sig), out, 32), 32);
	assert_int_equal(BN_bn2binpad(ECDSA_SIG_get0_s(sig), out + 32, 32), 32);
	ECDSA_SIG_free(sig);
	return 64;
}

/* Sign by a key, or (NULL) by HMAC with a secret; static memory. */
static const char *
sign(const char *header, const char *claims, EVP_PKEY *key, const char *secret, size_t secret_len)
{
	static char text[20000];
	unsigned char sig[1024], raw[64];
	size_t len = encode(header, strlen(header), text), n = sizeof sig;

	text[len++] = '.';
	len += encode(claims, strlen(claims), text + len);
	if (key == NULL) {
		unsigned m;

		HMAC(EVP_sha256(), secret, (int)secret_len, (unsigned char *)text, len, sig, &m);
		n = m;
	} else {
		EVP_MD_CTX *md = EVP_MD_CTX_new();

		assert_int_equal(EVP_DigestSignInit(md, NULL, EVP_sha256(), NULL, key), 1);
		assert_int_equal(EVP_DigestSign(md, sig, &n, (unsigned char *)text, len), 1);
		EVP_MD_CTX_free(md);
	}
	text[len++] = '.';
	if (key != NULL && key == ec)
		encode(raw, raw_ec(sig, n, raw), text + len);
	else
		encode(sig, n, text + len);
	return text;
}

static char *
pem(EVP_PKEY *key, size_t *len)
{
	BIO *out = BIO_new(BIO_s_mem());
	char *data, *copy;
	long n;

	assert_int_equal(PEM_write_bio_PUBKEY(out, key), 1);
	n = BIO_get_mem_data(out, &data);
	copy = calloc(1, (size_t)n + 1);
	memcpy(copy, data, (size_t)n);
	*len = (size_t)n;
	BIO_free(out);
	return copy;
}

static void
block(const char *kid, enum config_algorithm algorithm, char *key, size_t len)
{
	config.jwt[config.jwt_count++] = (struct config_jwt){.name = (char *)(uintptr_t) "j",
	    .algorithm = algorithm,
	    .kid = (char *)(uintptr_t)kid,
	    .audience = (char *)(uintptr_t) "us",
	    .key = key,
	    .key_len = len,
	    .scopes = KEY_SCOPE_CHAT | KEY_SCOPE_EMBEDDINGS};
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
	size_t rsa_len, ec_len;
	char *rsa_pem, *ec_pem;

	(void)state;
	assert_int_equal(region_anonymous(&heritage.region, &dims), 0);
	assert_int_equal(region_grow_accounts(&heritage.region, 1), 0);
	assert_non_null(account_insert(&heritage.region, "alice", 5, &books, 0));
	rsa = EVP_RSA_gen(2048);
	ec = EVP_EC_gen("P-256");
	assert_true(rsa != NULL && ec != NULL);
	rsa_pem = pem(rsa, &rsa_len);
	ec_pem = pem(ec, &ec_len);
	block("r1", CONFIG_RS256, rsa_pem, rsa_len);
	block("e1", CONFIG_ES256, ec_pem, ec_len);
	block("", CONFIG_HS256, strdup(SECRET), sizeof SECRET - 1);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	region_unmap(&heritage.region);
	EVP_PKEY_free(rsa);
	EVP_PKEY_free(ec);
	for (int i = 0; i < config.jwt_count; i++)
		free(config.jwt[i].key);
	return 0;
}

static enum auth_result
check_bytes(const char *text, size_t len, struct caller *caller)
{
	static const struct caller nobody;
	enum auth_result r;

	memset(caller, 0, sizeof *caller);
	r = jwt_check(&heritage, (struct span){text, len}, NOW * 1000000, caller);
	if (r != AUTH_OK)
		assert_memory_equal(caller, &nobody, sizeof nobody);
	return r;
}

static enum auth_result
check(const char *text)
{
	struct caller caller;

	return check_bytes(text, strlen(text), &caller);
}

static enum auth_result
hs(const char *header, const char *claims)
{
	return check(sign(header, claims, NULL, SECRET, sizeof SECRET - 1));
}

static void
each_algorithm_by_its_own_key(void **state)
{
	struct caller caller;
	const char *text;

	(void)state;
	text = sign("{\"alg\":\"RS256\",\"kid\":\"r1\"}", "{" CLAIMS "}", rsa, NULL, 0);
	assert_int_equal(check_bytes(text, strlen(text), &caller), AUTH_OK);
	assert_int_equal(caller.account->number, 0);
	assert_int_equal(caller.scopes, KEY_SCOPE_CHAT | KEY_SCOPE_EMBEDDINGS);
	assert_true(caller.key == NULL && caller.purse == NULL && caller.every_model);
	assert_int_equal(check(sign("{\"alg\":\"ES256\",\"kid\":\"e1\",\"typ\":\"JWT\"}",
	                     "{" CLAIMS "}", ec, NULL, 0)),
	    AUTH_OK);
	assert_int_equal(hs("{\"alg\":\"HS256\"}", "{" CLAIMS "}"), AUTH_OK);
}

/* The token does not choose how it is verified. */
static void
no_confusion(void **state)
{
	const struct config_jwt *r = &config.jwt[0], *e = &config.jwt[1];
	static const char *const none[] = {"{\"alg\":\"none\"}", "{\"alg\":\"None\"}",
	    "{\"alg\":\"\"}", "{}", "{\"alg\":null}", "{\"alg\":\"none\",\"kid\":\"r1\"}",
	    "{\"alg\":[\"HS256\"]}", "{\"alg\":\"hs256\"}", "{\"alg\":\"HS384\"}",
	    "{\"alg\":\"HS256\",\"alg\":\"none\"}", "{\"alg\":\"HS256\",\"kid\":null}",
	    "{\"alg\":\"HS256\",\"kid\":\"\\u0000\"}", "{\"alg\":\"HS256\",\"kid\":\"r1\"}",
	    "{\"alg\":\"HS256\",\"kid\":\"x\"}", "{\"alg\":\"HS256\",\"kid\":\"../../dev/null\"}",
	    "{\"alg\":\"HS256\",\"kid\":[\"\"]}", "{\"alg\":\"HS256\",\"crit\":[\"exp\"]}",
	    "{\"alg\":\"HS256\",\"b64\":false}", "[\"HS256\"]", "{\"alg\":\"HS256\"} ", "x"};
	char unsigned_text[600];
	const char *text;
	size_t len;

	(void)state;
	/* A public key as an HMAC's secret. */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(check(sign(i == 0 ? "{\"alg\":\"HS256\",\"kid\":\"r1\"}"
		                                   : "{\"alg\":\"HS256\"}",
		                     "{" CLAIMS "}", NULL, r->key, r->key_len)),
		    AUTH_TOKEN);
		assert_int_equal(check(sign(i == 0 ? "{\"alg\":\"HS256\",\"kid\":\"e1\"}"
		                                   : "{\"alg\":\"HS256\"}",
		                     "{" CLAIMS "}", NULL, e->key, e->key_len)),
		    AUTH_TOKEN);
	}
	/* Another block's key, another algorithm, no kid. */
	assert_int_equal(
	    check(sign("{\"alg\":\"ES256\",\"kid\":\"r1\"}", "{" CLAIMS "}", ec, NULL, 0)),
	    AUTH_TOKEN);
	assert_int_equal(
	    check(sign("{\"alg\":\"RS256\",\"kid\":\"e1\"}", "{" CLAIMS "}", rsa, NULL, 0)),
	    AUTH_TOKEN);
	assert_int_equal(
	    check(sign("{\"alg\":\"RS256\"}", "{" CLAIMS "}", rsa, NULL, 0)), AUTH_TOKEN);
	for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
		if (i != 19) /* white space is JSON's */
			assert_int_equal(hs(none[i], "{" CLAIMS "}"), AUTH_TOKEN);
	/* Not signed at all. */
	for (size_t i = 0; i < 4; i++) {
		text = sign(none[i], "{" CLAIMS "}", NULL, SECRET, sizeof SECRET - 1);
		len = (size_t)(strrchr(text, '.') - text) + 1;
		memcpy(unsigned_text, text, len);
		unsigned_text[len] = '\0';
		assert_int_equal(check(unsigned_text), AUTH_TOKEN);
		unsigned_text[len - 1] = '\0';
		assert_int_equal(check(unsigned_text), AUTH_TOKEN);
	}
}

static void
claims(void **state)
{
	static const struct {
		const char *claims;
		enum auth_result want;
	} cases[] = {
	    {"\"sub\":\"alice\",\"aud\":[\"them\",\"us\"],\"exp\":1800000100", AUTH_OK},
	    {"\"sub\":\"alice\",\"aud\":[\"them\"],\"exp\":1800000100", AUTH_TOKEN},
	    {"\"sub\":\"alice\",\"aud\":\"them\",\"exp\":1800000100", AUTH_TOKEN},
	    {"\"sub\":\"alice\",\"aud\":\"usa\",\"exp\":1800000100", AUTH_TOKEN},
	    {"\"sub\":\"alice\",\"exp\":1800000100", AUTH_TOKEN},
	    {"\"sub\":\"alice\",\"aud\":\"us\"", AUTH_TOKEN},
	    /* A minute's grace each way. */
	    {"\"sub\":\"alice\",\"aud\":\"us\",\"exp\":1799999941", AUTH_OK},
	    {"\"sub\":\"alice\",\"aud\":\"us\",\"exp\":1799999940", AUTH_EXPIRED},
	    {"\"sub\":\"alice\",\"aud\":\"us\",\"exp\":0", AUTH_EXPIRED},
	    {"\"sub\":\"alice\",\"aud\":\"us\",\"exp\":\"1800000100\"", AUTH_TOKEN},
	    {"\"sub\":\"alice\",\"aud\":\"us\",\"exp\":-1", AUTH_TOKEN},
	    {"\"sub\":\"alice\",\"aud\":\"us\",\"exp\":9223372036854775807", AUTH_TOKEN},
	    {"\"sub\":\"alice\",\"aud\":\"us\",\"exp\":18000001e2", AUTH_TOKEN},
	    {CLAIMS ",\"nbf\":1800000060", AUTH_OK},
	    {CLAIMS ",\"nbf\":1800000061", AUTH_TOKEN},
	    {CLAIMS ",\"nbf\":null", AUTH_TOKEN},
	    {CLAIMS ",\"exp\":1", AUTH_TOKEN},
	    {"\"sub\":\"bob\",\"aud\":\"us\",\"exp\":1800000100", AUTH_NO_ACCOUNT},
	    {"\"sub\":\"\",\"aud\":\"us\",\"exp\":1800000100", AUTH_NO_ACCOUNT},
	    {"\"sub\":\"alice\\u0000\",\"aud\":\"us\",\"exp\":1800000100", AUTH_TOKEN},
	    {"\"sub\":7,\"aud\":\"us\",\"exp\":1800000100", AUTH_TOKEN},
	    {"\"aud\":\"us\",\"exp\":1800000100", AUTH_TOKEN},
	    {CLAIMS ",\"scope\":7", AUTH_TOKEN},
	    {CLAIMS ",\"models\":\"small\"", AUTH_TOKEN},
	    {CLAIMS ",\"models\":[7]", AUTH_TOKEN},
	    {CLAIMS ",\"models\":[1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7]", AUTH_TOKEN},
	};
	enum auth_result got;
	char text[400];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		snprintf(text, sizeof text, "{%s}", cases[i].claims);
		got = hs("{\"alg\":\"HS256\"}", text);
		if (got != cases[i].want)
			fail_msg("%s: %d", text, (int)got);
	}
	assert_int_equal(hs("{\"alg\":\"HS256\"}", "[]"), AUTH_TOKEN);
}

static void
what_it_may_do(void **state)
{
	static const struct {
		const char *scope;
		uint32_t want;
	} cases[] = {{"chat", KEY_SCOPE_CHAT}, {"openid chat email", KEY_SCOPE_CHAT}, {"", 0},
	    {"mint", 0}, {"chat,embeddings", 0}, {"embeddings  chat mint", 3}};
	char text[400];
	struct caller caller;
	const char *t;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		snprintf(text, sizeof text, "{" CLAIMS ",\"scope\":\"%s\"}", cases[i].scope);
		t = sign("{\"alg\":\"HS256\"}", text, NULL, SECRET, sizeof SECRET - 1);
		assert_int_equal(check_bytes(t, strlen(t), &caller), AUTH_OK);
		assert_int_equal(caller.scopes, cases[i].want);
	}
	t = sign("{\"alg\":\"HS256\"}", "{" CLAIMS ",\"models\":[\"small\"]}", NULL, SECRET,
	    sizeof SECRET - 1);
	assert_int_equal(check_bytes(t, strlen(t), &caller), AUTH_OK);
	assert_true(auth_model(&caller, "small") && !auth_model(&caller, "other"));
	t = sign(
	    "{\"alg\":\"HS256\"}", "{" CLAIMS ",\"models\":[]}", NULL, SECRET, sizeof SECRET - 1);
	assert_int_equal(check_bytes(t, strlen(t), &caller), AUTH_OK);
	assert_false(auth_model(&caller, "small"));
}

static void
changed_and_odd_texts(void **state)
{
	char good[2000], text[12000];
	struct caller caller;
	size_t len;

	(void)state;
	snprintf(good, sizeof good, "%s",
	    sign("{\"alg\":\"RS256\",\"kid\":\"r1\"}", "{" CLAIMS "}", rsa, NULL, 0));
	len = strlen(good);
	for (size_t i = 0; i < len; i++) {
		memcpy(text, good, len);
		text[i] = good[i] == 'A' ? 'B' : 'A';
		if (check_bytes(text, len, &caller) != AUTH_TOKEN)
			fail_msg("character %zu of %zu", i, len);
		text[i] = '.';
		assert_int_equal(
		    check_bytes(text, len, &caller), good[i] == '.' ? AUTH_OK : AUTH_TOKEN);
		text[i] = '\0';
		assert_int_equal(check_bytes(text, len, &caller), AUTH_TOKEN);
		assert_int_equal(check_bytes(good, i, &caller), AUTH_TOKEN);
	}
	memcpy(text, good, len);
	text[len] = '=';
	assert_int_equal(check_bytes(text, len + 1, &caller), AUTH_TOKEN);
	/* Too long, however well it is signed. */
	snprintf(text, sizeof text, "{" CLAIMS ",\"x\":\"%04000d\"}", 0);
	assert_int_equal(hs("{\"alg\":\"HS256\"}", text), AUTH_TOKEN);
	snprintf(text, sizeof text, "{" CLAIMS ",\"x\":\"%02000d\"}", 0);
	assert_int_equal(hs("{\"alg\":\"HS256\"}", text), AUTH_OK);
	/* Noise in its form, of all lengths up to the greatest. */
	srandom(1);
	for (int round = 0; round < 20000; round++) {
		len = (size_t)random() % (JWT_LEN_MAX + 2);
		for (size_t i = 0; i < len; i++)
			text[i] = (char)(random() % 97 == 0 ? '.' : random() % 256);
		assert_int_equal(check_bytes(text, len, &caller), AUTH_TOKEN);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_algorithm_by_its_own_key),
	    cmocka_unit_test(no_confusion),
	    cmocka_unit_test(claims),
	    cmocka_unit_test(what_it_may_do),
	    cmocka_unit_test(changed_and_odd_texts),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
