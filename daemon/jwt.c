/*
 * Tokens: which block of the config they are for, their signature (by libjwt), their claims.
 * Worker process; what it reads comes from anybody.
 *
 * libjwt 1 verifies by whatever algorithm the token names, with the key that it is given: a
 * public RSA key would do as the secret of an HMAC that everybody can make.  So the header is read
 * here first, by our own strict parser; the algorithm must be that of the block that the key is
 * from; and it must be the one that libjwt says it went by.
 */
#include "daemon/jwt.h"

#include <jwt.h>
#include <string.h>

#include "daemon/json.h"

#define PART_MAX (JWT_LEN_MAX / 4 * 3 + 3)
#define SKEW_US (JWT_SKEW_SECONDS * UINT64_C(1000000))

struct token {
	struct span header, claims, signature; /* as they came, without the dots */
	struct span text;
};

static bool
split(struct span text, struct token *t)
{
	const char *end = text.p + text.len, *first, *second;

	first = memchr(text.p, '.', text.len);
	second = first == NULL ? NULL : memchr(first + 1, '.', (size_t)(end - first - 1));
	if (second == NULL || memchr(second + 1, '.', (size_t)(end - second - 1)) != NULL)
		return false;
	*t = (struct token){
	    .header = {text.p, (size_t)(first - text.p)},
	    .claims = {first + 1, (size_t)(second - first - 1)},
	    .signature = {second + 1, (size_t)(end - second - 1)},
	    .text = text,
	};
	return t->header.len > 0 && t->claims.len > 0 && t->signature.len > 0;
}

bool
jwt_is_one(struct span token)
{
	struct token t;

	return split(token, &t);
}

static int
base64url(char c)
{
	return c >= 'A' && c <= 'Z'   ? c - 'A'
	       : c >= 'a' && c <= 'z' ? c - 'a' + 26
	       : c >= '0' && c <= '9' ? c - '0' + 52
	       : c == '-'             ? 62
	       : c == '_'             ? 63
	                              : -1;
}

/* Exactly what RFC 7515 calls base64url: no padding, no bits left over.  -1 if it is not. */
static int
decode(struct span text, char out[static PART_MAX], size_t *len)
{
	uint32_t bits = 0;
	unsigned have = 0;

	*len = 0;
	if (text.len > JWT_LEN_MAX || text.len % 4 == 1)
		return -1;
	for (size_t i = 0; i < text.len; i++) {
		int v = base64url(text.p[i]);

		if (v < 0)
			return -1;
		bits = bits << 6 | (uint32_t)v;
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[(*len)++] = (char)(bits >> have & 0xff);
		}
	}
	return (bits & ((1u << have) - 1)) == 0 ? 0 : -1;
}

/* A part as an object; strict: each name once, valid UTF-8, nothing behind it. */
static bool
read_object(struct span part, char text[static PART_MAX], struct json_value *root)
{
	size_t len;

	return decode(part, text, &len) == 0 && json_check(text, len, root, NULL) == JSON_OK &&
	       root->type == JSON_OBJECT;
}

static const char *const algorithm_name[] = {
    [CONFIG_RS256] = "RS256", [CONFIG_ES256] = "ES256", [CONFIG_HS256] = "HS256"};
static const jwt_alg_t algorithm[] = {
    [CONFIG_RS256] = JWT_ALG_RS256, [CONFIG_ES256] = JWT_ALG_ES256, [CONFIG_HS256] = JWT_ALG_HS256};

/* The block that a token is for: of its kid, and by its algorithm. */
static const struct config_jwt *
block_of(const struct config *c, struct span header)
{
	char text[PART_MAX];
	struct json_value root, alg, kid, crit, b64;

	if (!read_object(header, text, &root) || !json_get(root, "alg", &alg))
		return NULL;
	/* Extensions that must be understood: none is. */
	if (json_get(root, "crit", &crit) || json_get(root, "b64", &b64))
		return NULL;
	if (json_get(root, "kid", &kid) && kid.type != JSON_STRING)
		return NULL;
	for (int i = 0; i < c->jwt_count; i++) {
		const struct config_jwt *j = &c->jwt[i];

		if ((kid.type == JSON_STRING ? json_is(kid, j->kid) : *j->kid == '\0') &&
		    json_is(alg, algorithm_name[j->algorithm]))
			return j;
	}
	return NULL;
}

static bool
signature_good(const struct config_jwt *j, const struct token *t)
{
	char token[JWT_LEN_MAX + 1], signature[PART_MAX];
	struct span text = t->text;
	jwt_t *jwt = NULL;
	size_t len;
	bool good;

	/* libjwt takes several texts for the same bytes; we do not. */
	if (decode(t->signature, signature, &len) != 0)
		return false;
	memcpy(token, text.p, text.len);
	token[text.len] = '\0';
	/* Never without a key: libjwt would take that for "do not verify". */
	if (j->key_len == 0 || strlen(token) != text.len)
		return false;
	good = jwt_decode(&jwt, token, (const unsigned char *)j->key, (int)j->key_len) == 0 &&
	       jwt_get_alg(jwt) == algorithm[j->algorithm];
	jwt_free(jwt);
	return good;
}

static bool
audience_is(struct json_value aud, const char *audience)
{
	const char *it = NULL;
	struct json_value one;

	if (json_is(aud, audience))
		return true;
	while (aud.type == JSON_ARRAY && json_each(aud, &it, NULL, &one))
		if (json_is(one, audience))
			return true;
	return false;
}

/* A time in seconds since 1970.  (With a fraction it is one that nobody here makes.) */
static bool
read_time(struct json_value v, uint64_t *us)
{
	int64_t s;

	if (!json_int(v, &s) || s < 0 || s > INT64_C(1) << 40)
		return false;
	*us = (uint64_t)s * 1000000;
	return true;
}

static enum auth_result
check_times(struct json_value claims, uint64_t now_us)
{
	struct json_value exp, nbf;
	uint64_t us;

	if (!json_get(claims, "exp", &exp) || !read_time(exp, &us))
		return AUTH_TOKEN;
	if (us + SKEW_US <= now_us)
		return AUTH_EXPIRED;
	if (json_get(claims, "nbf", &nbf) && (!read_time(nbf, &us) || us > now_us + SKEW_US))
		return AUTH_TOKEN;
	return AUTH_OK;
}

/* "scope": words with blanks between them.  It can take away from what the block gives. */
static bool
read_scope(struct json_value claims, uint32_t *scopes)
{
	struct json_value scope;
	char text[PART_MAX];
	uint32_t said = 0;
	size_t len;

	if (!json_get(claims, "scope", &scope))
		return true;
	if (scope.type != JSON_STRING)
		return false;
	len = json_decode(scope, text);
	for (size_t at = 0, n; at <= len; at += n + 1) {
		const char *blank = memchr(text + at, ' ', len - at);

		n = blank != NULL ? (size_t)(blank - text) - at : len - at;
		said |= auth_parse_scope(text + at, n);
	}
	*scopes &= said;
	return true;
}

/* "models": names.  Without it, all. */
static bool
read_models(struct json_value claims, struct caller *caller)
{
	struct json_value models, one;
	const char *it = NULL;
	char text[PART_MAX];

	caller->every_model = !json_get(claims, "models", &models);
	if (caller->every_model)
		return true;
	if (models.type != JSON_ARRAY)
		return false;
	while (json_each(models, &it, NULL, &one)) {
		if (one.type != JSON_STRING || caller->models == KEY_MODELS_MAX)
			return false;
		caller->model[caller->models++] = key_model(text, json_decode(one, text));
	}
	return true;
}

enum auth_result
jwt_check(const struct heritage *h, struct span text, uint64_t now_us, struct caller *caller)
{
	const struct config_jwt *j;
	struct json_value claims, sub, aud;
	struct caller found = {0};
	char bytes[PART_MAX], id[PART_MAX];
	enum auth_result times;
	struct token t;

	if (text.len > JWT_LEN_MAX || !split(text, &t))
		return AUTH_TOKEN;
	j = block_of(h->config, t.header);
	if (j == NULL || !signature_good(j, &t) || !read_object(t.claims, bytes, &claims))
		return AUTH_TOKEN;
	if (!json_get(claims, "aud", &aud) || !audience_is(aud, j->audience))
		return AUTH_TOKEN;
	times = check_times(claims, now_us);
	if (times != AUTH_OK)
		return times;
	found.scopes = j->scopes;
	if (!json_get(claims, "sub", &sub) || sub.type != JSON_STRING ||
	    !read_scope(claims, &found.scopes) || !read_models(claims, &found))
		return AUTH_TOKEN;
	found.account = account_find(&h->region, id, json_decode(sub, id));
	if (found.account == NULL)
		return AUTH_NO_ACCOUNT;
	*caller = found;
	return AUTH_OK;
}
