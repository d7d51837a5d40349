/*
 * Goal:   whatever a client shows as a key, in whatever headers, it is refused or is exactly what was
 *         given out: a key of ours, one that it minted, or a token whose signature, audience and times
 *         are right, read alike by another parser.
 * Method: libFuzzer or AFL++; the first byte chooses: a request's head; a token's header or claims,
 *         which are signed here; any bytes behind a token's or a minted key's form; a minted key's
 *         fields, under the right keyed hash; and what stands in a query or a path.
 *
 * objs: daemon/auth.o daemon/auth_scope.o daemon/minted.o daemon/jwt.o daemon/json.o
 * objs: daemon/json_value.o daemon/utf8.o daemon/buf.o daemon/log.o daemon/http.o
 * objs: daemon/http_chunked.o daemon/ids.o daemon/peer.o daemon/address.o shm/account.o shm/money.o
 * objs: shm/region.o shm/ring.o shm/limit.o shm/stranger.o
 */
#include <arpa/inet.h>
#include <jansson.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/address.h"
#include "daemon/ids.h"
#include "daemon/jwt.h"
#include "daemon/minted.h"
#include "daemon/peer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)          \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)
#define NOW_S INT64_C(1800000000)
#define NOW_US ((uint64_t)NOW_S * 1000000)
#define SECRET "a secret of no fewer than 32 bytes"
#define KEY "tolld_0123456789abcdefghijABCDEFGHIJ0123456789"
#define TEXT_MAX 16384

static struct config config;
static struct heritage heritage = {.config = &config};
static int peer; /* a connection from a proxy that is trusted, as everybody is */

static int
connect_peer(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t len = sizeof in;

	CHECK(bind(listener, (struct sockaddr *)&in, len) == 0 && listen(listener, 1) == 0);
	CHECK(getsockname(listener, (struct sockaddr *)&in, &len) == 0);
	CHECK(connect(fd, (struct sockaddr *)&in, len) == 0);
	return fd;
}

static void
begin(void)
{
	static const struct region_dims dims = {.workers = 1,
	    .max_accounts = 16,
	    .max_keys = 16,
	    .max_holds = 64,
	    .ring_records = 64,
	    .ring_arena = 4096};
	static char empty[] = "", audience[] = "us", secret[] = SECRET;
	struct account_books books = {0};
	struct key_entry k = {.key_id = 7,
	    .account = 0,
	    .scopes = KEY_SCOPE_CHAT | KEY_TRUST_USER,
	    .models = 1,
	    .model = {key_model("m", 1)}};

	CHECK(region_anonymous(&heritage.region, &dims) == 0);
	CHECK(region_grow_accounts(&heritage.region, 2) == 0);
	CHECK(region_grow_keys(&heritage.region, 1) == 0);
	CHECK(account_insert(&heritage.region, "alice", 5, &books, 0) != NULL);
	CHECK(account_insert(&heritage.region, "owui:bob", 8, &books, 0) != NULL);
	auth_hash(heritage.key_secret, KEY, AUTH_KEY_LEN, k.hash);
	CHECK(strlen(KEY) == AUTH_KEY_LEN && key_insert(&heritage.region, &k) != NULL);
	config.jwt_count = 1;
	config.jwt[0] = (struct config_jwt){.name = audience,
	    .algorithm = CONFIG_HS256,
	    .kid = empty,
	    .audience = audience,
	    .key = secret,
	    .key_len = sizeof SECRET - 1,
	    .scopes = KEY_SCOPE_CHAT | KEY_SCOPE_EMBEDDINGS};
	config.proxy_count = 1;
	CHECK(address_parse_net("::/0", &config.proxy[0]));
	peer = connect_peer();
}

/* Whoever was let in is somebody; whoever was not is nobody. */
static void
check_caller(enum auth_result r, const struct caller *c)
{
	static const struct caller nobody;

	if (r != AUTH_OK) {
		CHECK(memcmp(c, &nobody, sizeof nobody) == 0);
		return;
	}
	CHECK(c->models <= KEY_MODELS_MAX);
	CHECK(c->account == NULL || c->account->number < 2);
	CHECK(
	    (c->scopes & ~(uint32_t)(KEY_SCOPE_CHAT | KEY_SCOPE_EMBEDDINGS | KEY_TRUST_USER)) == 0);
}

static size_t
encode(const void *bytes, size_t len, char *text)
{
	size_t n = (size_t)EVP_EncodeBlock((unsigned char *)text, bytes, (int)len);

	while (n > 0 && text[n - 1] == '=')
		n--;
	for (size_t i = 0; i < n; i++)
		text[i] = text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i];
	return n;
}

static size_t
sign(struct span header, struct span claims, char *text)
{
	uint8_t mac[32];
	unsigned n;
	size_t len = encode(header.p, header.len, text);

	text[len++] = '.';
	len += encode(claims.p, claims.len, text + len);
	HMAC(EVP_sha256(), SECRET, sizeof SECRET - 1, (unsigned char *)text, len, mac, &n);
	text[len++] = '.';
	return len + encode(mac, n, text + len);
}

/* In memory of its own size. */
static enum auth_result
token(const char *text, size_t len, struct caller *c)
{
	char *exact = malloc(len > 0 ? len : 1);
	enum auth_result r;

	CHECK(exact != NULL);
	memcpy(exact, text, len);
	memset(c, 0, sizeof *c);
	r = jwt_check(&heritage, (struct span){exact, len}, NOW_US, c);
	check_caller(r, c);
	free(exact);
	return r;
}

/* What jansson reads in claims that were believed. */
static void
check_claims(struct span claims, const struct caller *c)
{
	json_t *j = json_loadb(claims.p, claims.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
	const json_t *exp, *nbf, *sub, *aud, *one;
	bool ours = false;
	size_t i;

	CHECK(json_is_object(j));
	exp = json_object_get(j, "exp");
	CHECK(json_is_integer(exp) && json_integer_value(exp) + JWT_SKEW_SECONDS > NOW_S);
	nbf = json_object_get(j, "nbf");
	CHECK(nbf == NULL ||
	      (json_is_integer(nbf) && json_integer_value(nbf) <= NOW_S + JWT_SKEW_SECONDS));
	sub = json_object_get(j, "sub");
	CHECK(json_is_string(sub) &&
	      json_string_length(sub) == (c->account->number == 0 ? 5u : 8u) &&
	      strcmp(json_string_value(sub), c->account->number == 0 ? "alice" : "owui:bob") == 0);
	aud = json_object_get(j, "aud");
	ours = json_is_string(aud) && strcmp(json_string_value(aud), "us") == 0;
	json_array_foreach((json_t *)(uintptr_t)aud, i, one) ours |=
	    json_is_string(one) && strcmp(json_string_value(one), "us") == 0;
	CHECK(ours && c->every_model == (json_object_get(j, "models") == NULL));
	json_decref(j);
}

static void
fuzz_claims(struct span claims)
{
	char text[TEXT_MAX];
	struct caller c;

	if (claims.len < 4000 &&
	    token(text, sign(SPAN("{\"alg\":\"HS256\"}"), claims, text), &c) == AUTH_OK)
		check_claims(claims, &c);
}

static void
fuzz_header(struct span header)
{
	static const char claims[] = "{\"sub\":\"alice\",\"aud\":\"us\",\"exp\":1800000100}";
	char text[TEXT_MAX];
	struct caller c;
	const json_t *kid;
	json_t *j;

	if (header.len > 4000 || token(text, sign(header, SPAN(claims), text), &c) != AUTH_OK)
		return;
	j = json_loadb(header.p, header.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
	CHECK(json_is_object(j) &&
	      strcmp(json_string_value(json_object_get(j, "alg")), "HS256") == 0);
	kid = json_object_get(j, "kid");
	CHECK(kid == NULL || (json_is_string(kid) && json_string_length(kid) == 0));
	CHECK(json_object_get(j, "crit") == NULL && json_object_get(j, "b64") == NULL);
	json_decref(j);
}

/* Any request: who is let in shows one of the keys that there are. */
static void
fuzz_request(const char *bytes, size_t len)
{
	struct http_request rq;
	struct http_fault fault;
	uint8_t address[16];
	struct caller c = {0};
	size_t scanned = 0, head;
	struct span key;

	if (http_parse_head(bytes, len, &scanned, &rq, &head, &fault) != HTTP_PARSE_OK)
		return;
	for (int ws = 0; ws < 2; ws++) {
		enum auth_result r = auth_shown(&rq, ws == 1, &key);

		if (r != AUTH_OK)
			continue;
		CHECK(key.len > 0 && key.p >= bytes && key.p + key.len <= bytes + len);
		r = auth_shown_by(&heritage, key, &rq, NOW_US, &c);
		check_caller(r, &c);
		if (r == AUTH_OK && c.key != NULL && key.len == AUTH_KEY_LEN)
			CHECK(memcmp(key.p, KEY, AUTH_KEY_LEN) == 0);
	}
	CHECK(peer_client(&config, peer, &rq, address));
}

static void
fuzz_shown(const char *bytes, size_t len)
{
	struct http_request rq = {0};
	struct caller c;

	check_caller(auth_shown_by(&heritage, (struct span){bytes, len}, &rq, NOW_US, &c), &c);
}

/* One that says of itself whatever it likes, as if the secret had been lost. */
static void
fuzz_minted(const uint8_t *bytes, size_t len)
{
	char body[1024] = "minted 1", text[TEXT_MAX];
	uint8_t signed_bytes[1024];
	struct caller c;
	size_t n;

	if (len > 600)
		return;
	memcpy(body + 9, bytes, len);
	memcpy(signed_bytes, bytes, len);
	auth_hash(heritage.key_secret, body, 9 + len, signed_bytes + len);
	memcpy(text, MINTED_PREFIX, sizeof MINTED_PREFIX - 1);
	n = sizeof MINTED_PREFIX - 1 +
	    encode(signed_bytes, len + 32, text + sizeof MINTED_PREFIX - 1);
	fuzz_shown(text, n);
	if (len == sizeof(struct minted)) {
		struct minted m;
		enum auth_result r;

		/* Right but for what is not of its own making: then it is good, as it says. */
		memcpy(&m, bytes, sizeof m);
		m.version = 1;
		m.models = 0;
		m.maker = 7;
		auth_hash(heritage.key_secret, KEY, AUTH_KEY_LEN, signed_bytes);
		memcpy(&m.maker_hash, signed_bytes, sizeof m.maker_hash);
		minted_make(heritage.key_secret, &m, NULL, text);
		memset(&c, 0, sizeof c);
		r = minted_check(&heritage, text, strlen(text), NOW_US, &c);
		check_caller(r, &c);
		CHECK((r == AUTH_OK) == (m.account < 2 && m.expires_us > NOW_US));
		CHECK(r != AUTH_OK || (c.scopes & ~(uint32_t)m.scopes) == 0);
	}
}

/* What routes take apart further: queries, parts of paths, ids, addresses. */
static void
fuzz_texts(const char *bytes, size_t len)
{
	struct span text = {bytes, len};
	struct stream_id stream;
	struct address_net net;
	uint8_t id[16], address[16];
	char out[64], again[64], name[4] = "a";
	size_t n;

	if (http_query(text, name, out, sizeof out, &n))
		CHECK(http_query_has(text, name) && strlen(out) == n && n < sizeof out);
	if (http_unescape(text, out, sizeof out, &n))
		CHECK(strlen(out) == n && n <= len);
	/* One id has one text. */
	if (id_parse(bytes, len, id)) {
		id_format(id, again);
		CHECK(len == ID_LEN && memcmp(again, bytes, len) == 0);
	}
	if (stream_id_parse(bytes, len, &stream)) {
		stream_id_format(&stream, again);
		CHECK(len == STREAM_ID_LEN && memcmp(again, bytes, len) == 0);
	}
	(void)address_parse_host(bytes, len, address);
	if (len < sizeof out) {
		memcpy(out, bytes, len);
		out[len] = '\0';
		if (address_parse_net(out, &net))
			CHECK(net.bits <= 128 && address_net_has(&net, net.address));
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *bytes = (const char *)data + 1;

	if (heritage.region.h == NULL)
		begin();
	if (size == 0)
		return 0;
	switch (data[0]) {
	case 'h':
		fuzz_header((struct span){bytes, size - 1});
		break;
	case 'c':
		fuzz_claims((struct span){bytes, size - 1});
		break;
	case 's':
		fuzz_shown(bytes, size - 1);
		break;
	case 'm':
		fuzz_minted(data + 1, size - 1);
		break;
	case 't':
		fuzz_texts(bytes, size - 1);
		break;
	default:
		fuzz_request(bytes, size - 1);
	}
	return 0;
}
