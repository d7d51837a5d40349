/*
 * key.create, key.list, key.revoke.  Admin process.
 *
 * A key exists in clear only in its call, until the answer is handed over, and is wiped then.
 */
#include <string.h>

#include "daemon/admin.h"
#include "daemon/key_rights.h"
#include "daemon/state.h"
#include "shm/clock.h"
#include "shm/purse.h"

static void
put_expiry(struct proto_out *out, uint64_t expires_us)
{
	proto_put_str(out, "expires_at");
	if (expires_us == 0)
		proto_put_nil(out);
	else
		proto_put_int(out, (int64_t)(expires_us / 1000000));
}

static void
made_cb(void *arg, uint64_t position)
{
	struct admin_call *call = arg;
	enum ring_status status = ring_result(ledger_ring(call->admin->ledger), position, NULL);
	char key_id[AUTH_KEY_ID_LEN + 1];
	struct proto_out *out;

	if (status != RING_APPLIED) {
		(void)admin_refused(call, status);
		admin_finish(call);
		return;
	}
	admin_log(call, "key created");
	auth_format_key_id(call->key_id, key_id);
	out = admin_result(call);
	proto_put_map(out, 4);
	proto_put_kstr(out, "key", call->key);
	proto_put_kstr(out, "key_id", key_id);
	proto_put_ktext(out, "account", call->account->id, call->account->id_len);
	put_expiry(out, call->expires_us);
	admin_finish(call);
}

/* The arguments of key.create, as in the table of methods. */
enum { ARG_ID, ARG_TTL, ARG_LABEL, ARG_SCOPE, ARG_MODEL, ARG_CAP, ARG_PER,
	ARG_OTHERS, ARG_TRUST, ARG_RPM, ARG_TPM, ARG_STREAMS };

/* What it is to be good for; false with the error answered. */
static bool
read_rights(struct admin_call *call, const struct proto_value *v, struct key_rights *k)
{
	const struct config *config = call->admin->heritage->config;
	const char *why = NULL, *field = NULL;

	*k = (struct key_rights){.scopes = v[ARG_SCOPE].given ? 0
							      : KEY_SCOPE_CHAT | KEY_SCOPE_EMBEDDINGS};
	if (v[ARG_SCOPE].given && !key_rights_scopes(k, v[ARG_SCOPE].text, v[ARG_SCOPE].len, &why))
		field = "scope";
	else if (v[ARG_MODEL].given &&
	    !key_rights_models(k, config, v[ARG_MODEL].text, v[ARG_MODEL].len, &why))
		field = "model";
	else if (v[ARG_PER].given && key_rights_per(v[ARG_PER].text, v[ARG_PER].len) == KEY_PER_NONE) {
		field = "per";
		why = "must be \"day\", \"month\" or \"total\"";
	} else if (v[ARG_CAP].given != v[ARG_PER].given) {
		field = v[ARG_CAP].given ? "per" : "cap";
		why = "is missing: a cap is so much per day, per month or in total";
	} else if (v[ARG_OTHERS].number != 0 && (k->scopes & KEY_SCOPE_MINT) == 0) {
		field = "mint_others";
		why = "needs the scope \"mint\"";
	}
	if (field != NULL) {
		(void)admin_error(call, "invalid_argument", field, "%s %s", field, why);
		return false;
	}
	k->scopes |= v[ARG_OTHERS].number != 0 ? KEY_MINT_OTHERS : 0;
	k->scopes |= v[ARG_TRUST].number != 0 ? KEY_TRUST_USER : 0;
	return true;
}

enum admin_step
admin_key_create(struct admin_call *call, const struct proto_value *v)
{
	struct admin *a = call->admin;
	struct key_rights rights;
	struct journal_key payload = {.label_len = (uint16_t)v[ARG_LABEL].len};
	struct journal_record record = {
	    .type = JOURNAL_KEY,
	    .version = JOURNAL_VERSION,
	    .proc = PROC_ADMIN,
	    .slot = JOURNAL_NONE,
	    .price = JOURNAL_NONE,
	    .time_us = realtime_us(),
	};
	char text[128 + KEY_MODELS_TEXT_MAX];
	uint64_t position;

	call->account = admin_account(call, &v[ARG_ID]);
	if (call->account == NULL || !read_rights(call, v, &rights))
		return ADMIN_DONE;
	record.account = call->account->number;
	record.amount = v[ARG_CAP].number;
	record.prompt = v[ARG_PER].given ? key_rights_per(v[ARG_PER].text, v[ARG_PER].len)
					 : KEY_PER_NONE;
	record.cached = (uint32_t)v[ARG_RPM].number;
	record.completion = (uint32_t)v[ARG_TPM].number;
	record.extra = v[ARG_STREAMS].number;
	if (v[ARG_TTL].given)
		call->expires_us = record.time_us + (uint64_t)v[ARG_TTL].number * 1000000;
	auth_make_key(call->key, &call->key_id);
	auth_hash(a->heritage->key_secret, call->key, strlen(call->key), payload.hash);
	payload.key_id = call->key_id;
	payload.expires_us = call->expires_us;
	payload.scopes = rights.scopes;
	payload.models_len = (uint16_t)rights.models_len;
	/* The table of methods bounds the label. */
	if (v[ARG_LABEL].len > 0)
		memcpy(text, v[ARG_LABEL].text, v[ARG_LABEL].len);
	memcpy(text + v[ARG_LABEL].len, rights.models, rights.models_len);
	position = ring_push2(ledger_ring(a->ledger), &record, &payload, sizeof payload, text,
	    v[ARG_LABEL].len + rights.models_len);
	if (position == 0) {
		explicit_bzero(call->key, sizeof call->key);
		return ADMIN_BUSY;
	}
	durable_wait(a->durable, position, made_cb, call);
	return ADMIN_LATER;
}

static void
revoked_cb(void *arg, uint64_t position)
{
	struct admin_call *call = arg;
	enum ring_status status = ring_result(ledger_ring(call->admin->ledger), position, NULL);
	char key_id[AUTH_KEY_ID_LEN + 1];
	struct proto_out *out;

	if (status == RING_UNKNOWN)
		(void)admin_error(call, "key_not_found", "key_id", "no such key");
	else if (status != RING_APPLIED && status != RING_REPEATED)
		(void)admin_refused(call, status);
	else {
		if (status == RING_APPLIED)
			admin_log(call, "key revoked");
		auth_format_key_id(call->key_id, key_id);
		out = admin_result(call);
		proto_put_map(out, status == RING_REPEATED ? 3 : 2);
		proto_put_kstr(out, "key_id", key_id);
		proto_put_kbool(out, "revoked", true);
		if (status == RING_REPEATED)
			proto_put_kbool(out, "repeated", true);
	}
	admin_finish(call);
}

enum admin_step
admin_key_revoke(struct admin_call *call, const struct proto_value *v)
{
	struct admin *a = call->admin;
	struct journal_record record = {
	    .type = JOURNAL_KEY_REVOKE,
	    .version = JOURNAL_VERSION,
	    .proc = PROC_ADMIN,
	    .slot = JOURNAL_NONE,
	    .account = JOURNAL_NONE,
	    .price = JOURNAL_NONE,
	    .time_us = realtime_us(),
	};
	char text[AUTH_KEY_ID_LEN + 1] = "";
	uint64_t position;

	memcpy(text, v[0].text, v[0].len); /* the table of methods bounds it */
	if (strlen(text) != v[0].len || auth_parse_key_id(text, &call->key_id) != 0)
		return admin_error(call, "invalid_argument", "key_id",
		    "a key id is \"key_\" and 16 hexadecimal digits (not the key itself)");
	record.extra = (int64_t)call->key_id;
	position = ring_push(ledger_ring(a->ledger), &record, NULL, 0);
	if (position == 0)
		return ADMIN_BUSY;
	durable_wait(a->durable, position, revoked_cb, call);
	return ADMIN_LATER;
}

static const char *
status_text(const struct key_entry *k, uint64_t now_us)
{
	/* Relaxed: one word. */
	if (atomic_load_explicit(&k->flags, memory_order_relaxed) & KEY_REVOKED)
		return "revoked";
	return k->expires_us != 0 && k->expires_us <= now_us ? "expired" : "active";
}

/* Names with commas between them, instead of line feeds. */
static void
put_models(struct proto_out *out, const struct state_key *row)
{
	char text[KEY_MODELS_TEXT_MAX];

	proto_put_str(out, "model");
	if (row == NULL || row->models_len == 0) {
		proto_put_nil(out);
		return;
	}
	for (uint32_t i = 0; i < row->models_len; i++)
		text[i] = row->models[i] == '\n' ? ',' : row->models[i];
	proto_put_text(out, text, row->models_len);
}

/* What is in state.mdb only.  Nil where there is none, or where that cannot be read. */
static void
put_row(struct proto_out *out, struct admin *a, uint64_t key_id)
{
	struct state_key read;
	const struct state_key *row = NULL;
	const char *why;

	if (a->state == NULL)
		a->state = state_reader_open(a->heritage->config->state_dir, &why);
	if (a->state != NULL && state_key_next(a->state, key_id, &read) == 1 &&
	    read.key_id == key_id)
		row = &read;
	proto_put_str(out, "label");
	if (row != NULL && row->label_len > 0 && proto_text_ok(row->label, row->label_len))
		proto_put_text(out, row->label, row->label_len);
	else
		proto_put_nil(out);
	put_models(out, row);
}

/* The cap, and what is charged and held under it in the present day or month. */
static void
put_cap(struct proto_out *out, const struct key_entry *k)
{
	proto_put_str(out, "cap");
	if (k->purse.per == KEY_PER_NONE) {
		proto_put_nil(out);
		proto_put_kstr(out, "per", NULL);
		proto_put_str(out, "used");
		proto_put_nil(out);
		return;
	}
	proto_put_int(out, k->purse.cap);
	proto_put_kstr(out, "per", key_rights_per_name(k->purse.per));
	proto_put_kint(out, "used",
	    purse_used(&k->purse, purse_window(k->purse.per, realtime_us())));
}

/* As key.create takes them. */
static void
put_scopes(struct proto_out *out, uint32_t scopes)
{
	char text[AUTH_SCOPES_LEN];

	auth_format_scopes(scopes, text);
	for (char *c = text; *c != '\0'; c++)
		if (*c == ' ')
			*c = ',';
	proto_put_kstr(out, "scope", text);
	proto_put_kbool(out, "mint_others", (scopes & KEY_MINT_OTHERS) != 0);
	proto_put_kbool(out, "trust_user_header", (scopes & KEY_TRUST_USER) != 0);
}

/*
 * A page: {"keys": [...], "next": where to go on, or nil}.  Keys of all accounts lie in one
 * array, in the order of their creation; so many are looked at for one answer that it stays
 * short, and a page may well be empty with a "next".
 */
static void
put_page(struct admin_call *call)
{
	enum { LOOK = 200000 };
	struct region *r = call->admin->region;
	/* Acquire, pairs with the keeper's insert: keys below the count are whole. */
	uint32_t count = atomic_load_explicit(&r->h->keys, memory_order_acquire);
	uint32_t found[ADMIN_PAGE_MAX], n = 0, at = call->at;
	uint32_t stop = count > at && count - at > LOOK ? at + LOOK : count;
	uint64_t now_us = realtime_us();
	struct proto_out *out = admin_result(call);

	for (; at < stop && n < call->limit; at++)
		if (key_at(r, at)->account == call->account->number)
			found[n++] = at;
	proto_put_map(out, 2);
	proto_put_str(out, "keys");
	proto_put_array(out, n);
	for (uint32_t i = 0; i < n; i++) {
		const struct key_entry *k = key_at(r, found[i]);
		char key_id[AUTH_KEY_ID_LEN + 1];

		auth_format_key_id(k->key_id, key_id);
		proto_put_map(out, 15);
		proto_put_kstr(out, "key_id", key_id);
		proto_put_ktext(out, "account", call->account->id, call->account->id_len);
		proto_put_kstr(out, "status", status_text(k, now_us));
		put_expiry(out, k->expires_us);
		put_scopes(out, k->scopes);
		put_row(out, call->admin, k->key_id);
		put_cap(out, k);
		proto_put_kint(out, "rpm", k->requests_per_minute);
		proto_put_kint(out, "tpm", k->tokens_per_minute);
		proto_put_kint(out, "streams", k->concurrent_streams);
	}
	proto_put_str(out, "next");
	if (at < count)
		proto_put_int(out, at);
	else
		proto_put_nil(out);
}

static void
synced_cb(void *arg, uint64_t position)
{
	(void)position;
	put_page(arg);
	admin_finish(arg);
}

enum admin_step
admin_key_list(struct admin_call *call, const struct proto_value *v)
{
	struct admin *a = call->admin;
	const struct journal_record sync = {
	    .type = JOURNAL_SYNC,
	    .version = JOURNAL_VERSION,
	    .proc = PROC_ADMIN,
	    .slot = JOURNAL_NONE,
	    .account = JOURNAL_NONE,
	    .price = JOURNAL_NONE,
	    .time_us = realtime_us(),
	};
	uint64_t position;

	call->account = admin_account(call, &v[0]);
	if (call->account == NULL)
		return ADMIN_DONE;
	call->at = (uint32_t)v[1].number;
	call->limit = v[2].given ? (uint32_t)v[2].number : ADMIN_PAGE_MAX;
	/* Labels of keys just made: state.mdb has to catch up for the first page. */
	if (call->at > 0 || a->stalled ||
	    atomic_load_explicit(&a->region->h->journal_ok, memory_order_relaxed) == 0) {
		put_page(call);
		return ADMIN_DONE;
	}
	position = ring_push(ledger_ring(a->ledger), &sync, NULL, 0);
	if (position == 0)
		return ADMIN_BUSY;
	durable_wait(a->durable, position, synced_cb, call);
	return ADMIN_LATER;
}
