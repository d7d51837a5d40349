/*
 * A journal record as the admin socket shows it: its fields by name.  Admin process.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/admin.h"
#include "daemon/books.h"
#include "daemon/ids.h"
#include "daemon/journal.h"
#include "daemon/quote.h"

/* A record's fields: collected first, since a map says how many it has. */
struct field {
	const char *key;
	const char *text; /* NULL: a number */
	size_t len;
	int64_t number;
};

struct fields {
	struct field f[32];
	size_t n;
};

static void
put_number(struct fields *fs, const char *key, int64_t number)
{
	fs->f[fs->n++] = (struct field){.key = key, .number = number};
}

/* Nothing, if there is none or it is not fit to be shown. */
static void
put_text(struct fields *fs, const char *key, const char *text, size_t len)
{
	if (len > 0 && proto_text_ok(text, len))
		fs->f[fs->n++] = (struct field){.key = key, .text = text, .len = len};
}

static void
put_str(struct fields *fs, const char *key, const char *text)
{
	put_text(fs, key, text, strlen(text));
}

static const char *
type_text(uint8_t type)
{
	static const char *const text[JOURNAL_TYPES] = {[JOURNAL_RESERVE] = "reserve",
	    [JOURNAL_EXTEND] = "extend",
	    [JOURNAL_MARK] = "mark",
	    [JOURNAL_SETTLE] = "settle",
	    [JOURNAL_VOID] = "void",
	    [JOURNAL_TOPUP] = "topup",
	    [JOURNAL_ADJUST] = "adjust",
	    [JOURNAL_ACCOUNT] = "account",
	    [JOURNAL_KEY] = "key",
	    [JOURNAL_KEY_REVOKE] = "key_revoke",
	    [JOURNAL_PRICE] = "price",
	    [JOURNAL_ACCOUNT_SET] = "account_set",
	    [JOURNAL_FREEZE] = "freeze",
	    [JOURNAL_CHECKPOINT] = "checkpoint",
	    [JOURNAL_PRICE_SET] = "price_set",
	    [JOURNAL_SIGHT] = "first_sight",
	    [JOURNAL_FORGET] = "forget"};

	return type < JOURNAL_TYPES && text[type] != NULL ? text[type] : "unknown";
}

struct texts { /* what is spelled out for a record */
	char session[ID_LEN + 1], message[ID_LEN + 1], key_id[AUTH_KEY_ID_LEN + 1];
	char link[ADMIN_LINK_LEN + 1], hash[ADMIN_LINK_LEN + 1];
};

const char *
admin_link(const uint8_t link[static JOURNAL_LINK_LEN], char text[static ADMIN_LINK_LEN + 1])
{
	for (size_t i = 0; i < JOURNAL_LINK_LEN; i++)
		(void)snprintf(text + 2 * i, 3, "%02x", link[i]);
	return text;
}

static void
reserve_fields(struct fields *fs, const struct journal_entry *e, struct texts *t)
{
	const struct journal_record *r = &e->record;
	const char *payload = e->payload;
	struct journal_reserve head;

	put_number(fs, "amount", r->amount);
	put_number(fs, "prompt", r->prompt);
	put_number(fs, "price", r->price);
	if (e->payload_len < sizeof head)
		return;
	memcpy(&head, payload, sizeof head);
	if (sizeof head + head.model_len > e->payload_len)
		return;
	put_text(fs, "model", payload + sizeof head, head.model_len);
	/* Not the stream's id: whoever has that can read the answer. */
	id_format(head.session_id, t->session);
	id_format(head.message_id, t->message);
	put_str(fs, "session_id", t->session);
	put_str(fs, "message_id", t->message);
}

static void
credit_fields(struct fields *fs, const struct journal_entry *e)
{
	const char *payload = e->payload;
	struct journal_ref head;

	put_number(fs, "amount", e->record.amount);
	if (e->payload_len < sizeof head)
		return;
	memcpy(&head, payload, sizeof head);
	if (sizeof head + head.ref_len + head.reason_len > e->payload_len)
		return;
	put_text(fs, "ref", payload + sizeof head, head.ref_len);
	put_text(fs, "reason", payload + sizeof head + head.ref_len, head.reason_len);
}

static void
put_budgets(struct fields *fs, const struct journal_budgets *b, uint32_t what)
{
	if (what & JOURNAL_SET_DAY)
		put_number(fs, "budget_day", b->cap[BUDGET_DAY]);
	if (what & JOURNAL_SET_MONTH)
		put_number(fs, "budget_month", b->cap[BUDGET_MONTH]);
}

static void
account_fields(struct fields *fs, const struct journal_entry *e)
{
	struct journal_account head;
	struct journal_budgets budgets;
	const char *id;

	put_number(fs, "overdraft", e->record.amount);
	if (e->payload_len != e->record.payload_len ||
	    !books_account_of(&e->record, e->payload, &head, &budgets, &id))
		return;
	put_budgets(fs, &budgets, head.budgets != 0 ? JOURNAL_SET_BUDGETS : 0);
	put_number(fs, "rpm", head.requests_per_minute);
	put_number(fs, "tpm", head.tokens_per_minute);
	put_number(fs, "streams", head.concurrent_streams);
}

static void
set_fields(struct fields *fs, const struct journal_entry *e)
{
	struct journal_account_set set;
	struct journal_budgets budgets;

	if (e->payload_len != e->record.payload_len ||
	    !books_set_of(&e->record, e->payload, &set, &budgets))
		return;
	put_budgets(fs, &budgets, set.what);
	if (set.what & JOURNAL_SET_OVERDRAFT) {
		put_number(fs, "amount", e->record.amount);
		put_number(fs, "overdraft", set.overdraft);
	}
	if (set.what & JOURNAL_SET_REQUESTS)
		put_number(fs, "rpm", set.requests_per_minute);
	if (set.what & JOURNAL_SET_TOKENS)
		put_number(fs, "tpm", set.tokens_per_minute);
	if (set.what & JOURNAL_SET_STREAMS)
		put_number(fs, "streams", set.concurrent_streams);
	if (set.what & JOURNAL_SET_CLOSED)
		put_str(fs, "status", "closed");
	if (set.what & JOURNAL_SET_UNFROZEN)
		put_str(fs, "status", "unfrozen");
	put_text(fs, "reason", (const char *)e->payload + e->payload_len - set.reason_len,
	    set.reason_len);
}

static void
key_fields(struct fields *fs, const struct journal_entry *e, struct texts *t)
{
	struct journal_key head;

	if (e->payload_len < sizeof head)
		return;
	memcpy(&head, e->payload, sizeof head);
	auth_format_key_id(head.key_id, t->key_id);
	put_str(fs, "key_id", t->key_id);
	if (head.expires_us != 0)
		put_number(fs, "expires_at", (int64_t)(head.expires_us / 1000000));
	if (e->record.cached != 0)
		put_number(fs, "rpm", e->record.cached);
	if (e->record.completion != 0)
		put_number(fs, "tpm", e->record.completion);
	if (e->record.extra != 0)
		put_number(fs, "streams", e->record.extra);
	if (sizeof head + head.label_len <= e->payload_len)
		put_text(fs, "label", (const char *)e->payload + sizeof head, head.label_len);
}

static void
sight_fields(struct fields *fs, const struct journal_entry *e, struct texts *t)
{
	struct journal_sight head;

	put_number(fs, "amount", e->record.amount);
	put_number(fs, "overdraft", e->record.extra);
	if (e->payload_len < sizeof head)
		return;
	memcpy(&head, e->payload, sizeof head);
	auth_format_key_id(head.key_id, t->key_id);
	put_str(fs, "key_id", t->key_id);
}

static void
price_fields(struct fields *fs, const struct journal_entry *e)
{
	struct price price;
	const char *model;
	size_t len;

	put_number(fs, "price", e->record.price);
	if (e->payload_len != e->record.payload_len ||
	    !books_price_of(&e->record, e->payload, &price, &model, &len))
		return;
	put_text(fs, "model", model, len);
	for (int kind = 0; kind < PRICE_KINDS; kind++)
		put_number(fs, admin_price_field((enum price_kind)kind),
		    *price_field(&price, (enum price_kind)kind));
}

static void
price_set_fields(struct fields *fs, const struct journal_entry *e)
{
	struct journal_price_set set;
	const char *model;

	if (e->payload_len != e->record.payload_len ||
	    !books_price_set_of(&e->record, e->payload, &set, &model))
		return;
	put_text(fs, "model", model, set.model_len);
	put_str(fs, "kind", set.kind < PRICE_KINDS ? price_kind_name[set.kind] : "all");
	if (set.kind < PRICE_KINDS && e->record.amount >= 0)
		put_number(fs, admin_price_field((enum price_kind)set.kind), e->record.amount);
	else
		put_str(fs, "status", "reset");
}

/* What a charge was made of: the tokens, and the prices of those kinds that there were. */
static void
charge_fields(struct fields *fs, const struct region *region, const struct journal_entry *e)
{
	const struct journal_record *r = &e->record;
	struct journal_split split;
	struct price p;

	if (e->payload_len != r->payload_len || !books_split_of(r, e->payload, &split))
		return;
	put_number(fs, "prompt", r->prompt);
	put_number(fs, "cached", r->cached);
	if (split.cache_write > 0)
		put_number(fs, "cache_write", split.cache_write);
	put_number(fs, "completion", r->completion);
	if (split.reasoning > 0)
		put_number(fs, "reasoning", split.reasoning);
	put_number(fs, "price", r->price);
	/* Acquire, pairs with the keeper's: prices below the count are there. */
	if (r->price >= atomic_load_explicit(&region->h->prices, memory_order_acquire))
		return;
	p = *region_price(region, r->price);
	{
		const bool there[PRICE_KINDS] = {r->prompt > split.cache_write, r->cached > 0,
		    r->completion > split.reasoning, split.reasoning > 0, split.cache_write > 0,
		    p.request > 0};

		for (int kind = 0; kind < PRICE_KINDS; kind++)
			if (there[kind])
				put_number(fs, admin_price_field((enum price_kind)kind),
				    *price_field(&p, (enum price_kind)kind));
	}
}

static void
checkpoint_fields(struct fields *fs, const struct journal_entry *e, struct texts *t)
{
	struct journal_checkpoint head;

	if (e->payload_len < sizeof head)
		return;
	memcpy(&head, e->payload, sizeof head);
	put_number(fs, "covers", (int64_t)head.sequence);
	put_str(fs, "link", admin_link(head.link, t->link));
	put_str(fs, "hash", admin_link(head.hash, t->hash));
}

/* How it went, where the record says so. */
static void
end_fields(struct fields *fs, const struct journal_entry *e)
{
	static const char *const counted[COUNTED_MAX] = {
	    [COUNTED_OURS] = "tolld", [COUNTED_PROVIDERS] = "provider"};
	struct journal_end end;
	const char *provider;

	if (e->record.version != JOURNAL_VERSION_TOLD || e->payload_len != e->record.payload_len ||
	    !books_end_of(&e->record, e->payload, &end, &provider))
		return;
	if (end.provider_len > 0)
		put_text(fs, "provider", provider, end.provider_len);
	put_number(fs, "attempts", end.attempts);
	if (end.opened_ms != JOURNAL_NONE)
		put_number(fs, "opened_ms", end.opened_ms);
	if (end.first_ms != JOURNAL_NONE)
		put_number(fs, "first_token_ms", end.first_ms);
	if (end.counted < COUNTED_MAX && counted[end.counted] != NULL)
		put_str(fs, "counted_by", counted[end.counted]);
	if (quote_short_name(end.short_of) != NULL)
		put_str(fs, "short_of", quote_short_name(end.short_of));
}

/* EXTEND, MARK, SETTLE, VOID. */
static void
progress_fields(struct fields *fs, const struct region *region, const struct journal_entry *e)
{
	const struct journal_record *r = &e->record;

	if (r->type == JOURNAL_EXTEND) {
		put_number(fs, "amount", r->amount);
		put_number(fs, "total", r->extra);
	}
	if (r->type == JOURNAL_SETTLE) {
		put_number(fs, "amount", r->amount);
		put_number(fs, "uncollected", r->extra);
		charge_fields(fs, region, e);
	} else if (r->type != JOURNAL_VOID)
		put_number(fs, "completion", r->completion);
	if (r->type == JOURNAL_SETTLE || r->type == JOURNAL_VOID) {
		put_str(fs, "outcome", journal_outcome_text(r->outcome));
		end_fields(fs, e);
	}
}

static void
record_fields(
    struct fields *fs, const struct region *region, const struct journal_entry *e, struct texts *t)
{
	const struct journal_record *r = &e->record;

	put_number(fs, "sequence", (int64_t)e->sequence);
	put_number(fs, "time_us", (int64_t)r->time_us);
	put_str(fs, "type", type_text(r->type));
	/* Acquire, pairs with the keeper's insert. */
	if (r->account < atomic_load_explicit(&region->h->accounts, memory_order_acquire)) {
		const struct account *a = account_at(region, r->account);

		put_text(fs, "account", a->id, a->id_len);
	}
	if (r->slot != JOURNAL_NONE) {
		put_number(fs, "slot", r->slot);
		put_number(fs, "op", (int64_t)r->op);
	}
	switch ((enum journal_type)r->type) {
	case JOURNAL_RESERVE:
		reserve_fields(fs, e, t);
		break;
	case JOURNAL_EXTEND:
	case JOURNAL_MARK:
	case JOURNAL_SETTLE:
	case JOURNAL_VOID:
		progress_fields(fs, region, e);
		break;
	case JOURNAL_TOPUP:
	case JOURNAL_ADJUST:
		credit_fields(fs, e);
		break;
	case JOURNAL_ACCOUNT:
		account_fields(fs, e);
		break;
	case JOURNAL_ACCOUNT_SET:
		set_fields(fs, e);
		break;
	case JOURNAL_FREEZE:
		put_text(fs, "reason", e->payload, e->payload_len);
		break;
	case JOURNAL_KEY:
		key_fields(fs, e, t);
		break;
	case JOURNAL_KEY_REVOKE:
		auth_format_key_id((uint64_t)r->extra, t->key_id);
		put_str(fs, "key_id", t->key_id);
		break;
	case JOURNAL_SIGHT:
		sight_fields(fs, e, t);
		break;
	case JOURNAL_PRICE:
		price_fields(fs, e);
		break;
	case JOURNAL_PRICE_SET:
		price_set_fields(fs, e);
		break;
	case JOURNAL_CHECKPOINT:
		checkpoint_fields(fs, e, t);
		break;
	case JOURNAL_FORGET:
		if (e->payload_len != JOURNAL_FORGET_LEN)
			break;
		id_format(e->payload, t->session);
		put_str(fs, "session_id", t->session);
		break;
	default:
		break;
	}
}

void
admin_put_record(struct proto_out *out, const struct region *region, const struct journal_entry *e)
{
	struct fields fs = {.n = 0};
	struct texts t;

	record_fields(&fs, region, e, &t);
	proto_put_map(out, fs.n);
	for (size_t i = 0; i < fs.n; i++) {
		if (fs.f[i].text != NULL)
			proto_put_ktext(out, fs.f[i].key, fs.f[i].text, fs.f[i].len);
		else
			proto_put_kint(out, fs.f[i].key, fs.f[i].number);
	}
}
