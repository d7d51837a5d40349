/*
 * POST /keys: a short-lived key for one account, made by a key with the scope "mint" (so that a
 * site's back end can hand one to a browser).  Worker process.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/ids.h"
#include "daemon/json.h"
#include "daemon/key_rights.h"
#include "daemon/minted.h"
#include "daemon/worker.h"
#include "shm/clock.h"

enum { F_ACCOUNT, F_TTL, F_SCOPE, F_MODEL, FIELDS };
static const char *const field_name[FIELDS] = {"account", "ttl", "scope", "model"};

struct asked {
	const struct caller *caller;
	const struct config *config;
	struct json_value field[FIELDS];
	struct account *account;
	int64_t ttl;
	struct key_rights rights;
	/* What is wrong. */
	int status;
	const char *code, *param, *why;
};

static bool
wrong(struct asked *a, int status, const char *code, const char *param, const char *why)
{
	a->status = status;
	a->code = code;
	a->param = param;
	a->why = why;
	return false;
}

static bool
given(struct json_value v)
{
	return v.type != JSON_NONE && v.type != JSON_NULL;
}

static bool
read_body(struct asked *a, struct span body)
{
	struct json_value root, key, value;
	const char *it = NULL;

	if (json_check(body.p, body.len, &root, NULL) != JSON_OK || root.type != JSON_OBJECT)
		return wrong(a, 400, "invalid_json", NULL, "the body must be a JSON object");
	while (json_each(root, &it, &key, &value)) {
		int i = 0;

		while (i < FIELDS && !json_is(key, field_name[i]))
			i++;
		if (i < FIELDS)
			a->field[i] = value;
		else if (json_is(key, "cap"))
			return wrong(a, 400, "invalid_request", "cap",
			    "cannot be set: such a key spends under the cap of the key that made "
			    "it");
		else /* a right that somebody thinks to have limited */
			return wrong(a, 400, "invalid_request", NULL,
			    "only account, ttl, scope and model are known here");
	}
	if (!json_int(a->field[F_TTL], &a->ttl) || a->ttl < 1 || a->ttl > MINTED_SECONDS_MAX)
		return wrong(a, 400, "invalid_request", "ttl", "must be 1 to 86400 seconds");
	return true;
}

static bool
read_account(struct asked *a, const struct region *region)
{
	struct json_value v = a->field[F_ACCOUNT];
	char id[ACCOUNT_ID_MAX * 6];
	size_t len;

	a->account = a->caller->account;
	if (!given(v))
		return true;
	if (v.type != JSON_STRING || v.len > sizeof id)
		return wrong(a, 400, "invalid_request", "account", "must be an account's id");
	len = json_decode(v, id);
	if (len == a->account->id_len && memcmp(id, a->account->id, len) == 0)
		return true;
	/* Before it is looked up: who may not ask learns nothing of other accounts. */
	if ((a->caller->scopes & KEY_MINT_OTHERS) == 0)
		return wrong(a, 403, "insufficient_scope", "account",
		    "this key may make keys for its own account only");
	a->account = account_find(region, id, len);
	if (a->account == NULL)
		return wrong(a, 404, "not_found", "account", "there is no such account");
	return true;
}

/* A string with commas, or an array of strings; each name goes to `add`. */
static bool
read_names(struct asked *a, int field, bool (*add)(struct asked *, const char *, size_t))
{
	struct json_value v = a->field[field], item;
	const char *it = NULL;
	char text[KEY_MODELS_TEXT_MAX];
	size_t len, names = 0;

	if (v.type == JSON_STRING && v.len <= sizeof text) {
		len = json_decode(v, text);
		for (size_t at = 0, n; at <= len; at += n + 1) {
			const char *comma = memchr(text + at, ',', len - at);

			n = comma != NULL ? (size_t)(comma - text) - at : len - at;
			if (!add(a, text + at, n))
				return false;
		}
		return true;
	}
	for (; v.type == JSON_ARRAY && json_each(v, &it, NULL, &item); names++) {
		if (item.type != JSON_STRING || item.len > sizeof text)
			return wrong(a, 400, "invalid_request", field_name[field], "must be names");
		len = json_decode(item, text);
		if (!add(a, text, len))
			return false;
	}
	/* None is not taken for all. */
	if (names == 0)
		return wrong(a, 400, "invalid_request", field_name[field],
		    "must be a name, or a list of them");
	return true;
}

static bool
add_scope(struct asked *a, const char *name, size_t len)
{
	uint32_t scope = auth_parse_scope(name, len);

	if ((scope & (KEY_SCOPE_CHAT | KEY_SCOPE_EMBEDDINGS)) == 0)
		return wrong(
		    a, 400, "invalid_request", "scope", "may be \"chat\" and \"embeddings\"");
	if ((a->caller->scopes & scope) == 0)
		return wrong(a, 403, "insufficient_scope", "scope",
		    "a key can make none with more than its own scopes");
	a->rights.scopes |= scope;
	return true;
}

static bool
add_model(struct asked *a, const char *name, size_t len)
{
	const char *why;

	if (!key_rights_model(&a->rights, a->config, name, len, &why))
		return wrong(a, 400, "invalid_request", "model", why);
	/* Of models that it may not use it learns as little as of those that there are not. */
	if (!auth_model_named(a->caller, name, len))
		return wrong(a, 400, "invalid_request", "model", "is not the name of a model here");
	return true;
}

static bool
read_rights(struct asked *a)
{
	a->rights.scopes = 0;
	a->rights.models_len = 0;
	if (given(a->field[F_SCOPE]) && !read_names(a, F_SCOPE, add_scope))
		return false;
	if (!given(a->field[F_SCOPE]))
		a->rights.scopes = a->caller->scopes & (KEY_SCOPE_CHAT | KEY_SCOPE_EMBEDDINGS);
	if (a->rights.scopes == 0)
		return wrong(a, 403, "insufficient_scope", "scope",
		    "a key can give no scope that it does not have, and it has \"mint\" alone");
	return !given(a->field[F_MODEL]) || read_names(a, F_MODEL, add_model);
}

static void
answer(struct conn *c, const struct asked *a, const char *key, uint64_t expires_us)
{
	char scopes[AUTH_SCOPES_LEN], maker[AUTH_KEY_ID_LEN + 1];
	struct buf b = {0};

	auth_format_scopes(a->rights.scopes, scopes);
	auth_format_key_id(a->caller->key->key_id, maker);
	buf_printf(&b,
	    "{\"key\":\"%s\",\"account\":\"%.*s\",\"expires_at\":%llu,"
	    "\"scope\":[",
	    key, (int)a->account->id_len, a->account->id,
	    (unsigned long long)(expires_us / 1000000));
	for (char *at = scopes, *word; (word = strsep(&at, " ")) != NULL;)
		buf_printf(&b, "%s\"%s\"", word == scopes ? "" : ",", word);
	buf_printf(&b, "],\"made_by\":\"%s\"}", maker);
	conn_header(c, "Cache-Control", "no-store");
	conn_reply_buf(c, 200, "application/json", &b);
	explicit_bzero(b.data, b.len);
	buf_free(&b);
}

void
mint_handler(struct conn *c, const struct http_request *rq, struct span body)
{
	struct worker *w = conn_arg(c);
	struct asked a = {.caller = conn_caller(c), .config = w->config};
	struct minted m = {0};
	struct books_models names;
	uint64_t model[KEY_MODELS_MAX];
	char text[MINTED_TEXT_MAX];
	const char *name;
	size_t len;

	(void)rq;
	if (!read_body(&a, body) || !read_account(&a, w->region) || !read_rights(&a)) {
		conn_error(c, a.status,
		    a.status == 403 ? "permission_error" : "invalid_request_error", a.code, a.param,
		    "%s%s%s", a.param != NULL ? a.param : "", a.param != NULL ? ": " : "", a.why);
		return;
	}
	m.scopes = (uint8_t)a.rights.scopes;
	m.account = a.account->number;
	m.maker = a.caller->key->key_id;
	memcpy(&m.maker_hash, a.caller->key->hash, sizeof m.maker_hash);
	m.expires_us = realtime_us() + (uint64_t)a.ttl * 1000000;
	/* No longer than its maker. */
	if (a.caller->key->expires_us != 0 && a.caller->key->expires_us < m.expires_us)
		m.expires_us = a.caller->key->expires_us;
	id_random((uint8_t *)&m.nonce, sizeof m.nonce);
	names = (struct books_models){a.rights.models, a.rights.models + a.rights.models_len};
	while (books_models_next(&names, &name, &len))
		model[m.models++] = key_model(name, len);
	minted_make(w->heritage->key_secret, &m, model, text);
	answer(c, &a, text, m.expires_us);
	explicit_bzero(text, sizeof text);
}
