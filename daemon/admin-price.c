/*
 * price.list, price.set, price.reset.  Admin process.
 *
 * What is set stands over the config until it is reset.  It is answered when it is on disk, and
 * then it is in force in all workers: the keeper publishes it before it says so.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/admin.h"
#include "daemon/log.h"
#include "daemon/quote.h"
#include "shm/clock.h"

#define KIND_ALL "all"

static const char *const field[PRICE_KINDS] = {
    [PRICE_PROMPT] = "price_prompt",
    [PRICE_CACHED] = "price_cached",
    [PRICE_COMPLETION] = "price_completion",
    [PRICE_REASONING] = "price_reasoning",
    [PRICE_CACHE_WRITE] = "price_cache_write",
    [PRICE_REQUEST] = "price_request",
};

const char *
admin_price_field(enum price_kind kind)
{
	return field[kind];
}

/* A model's prices, and which of them an operator set: their names with commas between. */
static void
put_model(struct proto_out *out, const struct admin *a, int model)
{
	/* Relaxed: for a report. */
	unsigned bits =
	    atomic_load_explicit(&a->region->h->model_price_set[model], memory_order_relaxed);
	char set[128] = "";
	struct price p;
	uint32_t id = quote_price(a->region, model, &p);

	for (int kind = 0; kind < PRICE_KINDS; kind++)
		if (bits >> kind & 1)
			(void)snprintf(set + strlen(set), sizeof set - strlen(set), "%s%s",
			    set[0] != '\0' ? "," : "", price_kind_name[kind]);
	proto_put_map(out, PRICE_KINDS + 3);
	proto_put_kstr(out, "model", region_names(a->region)->model[model]);
	proto_put_kint(out, "price", id);
	for (int kind = 0; kind < PRICE_KINDS; kind++)
		proto_put_kint(out, field[kind], *price_field(&p, (enum price_kind)kind));
	proto_put_kstr(out, "set", set);
}

enum admin_step
admin_price_list(struct admin_call *call, const struct proto_value *v)
{
	const struct admin *a = call->admin;
	int count = a->heritage->config->model_count;
	int from = v[0].number < count ? (int)v[0].number : count;
	int left = count - from;
	int n = v[1].given && v[1].number < left ? (int)v[1].number : left;
	size_t there = 0;
	struct proto_out *out = admin_result(call);

	proto_put_map(out, 2);
	proto_put_str(out, "prices");
	for (int i = from; i < from + n; i++)
		there += a->heritage->config->model[i].name != NULL;
	proto_put_array(out, there);
	for (int i = from; i < from + n; i++)
		if (a->heritage->config->model[i].name != NULL)
			put_model(out, a, i);
	proto_put_str(out, "next");
	if (from + n < count)
		proto_put_int(out, from + n);
	else
		proto_put_nil(out);
	return ADMIN_DONE;
}

static void
set_cb(void *arg, uint64_t position)
{
	struct admin_call *call = arg;
	enum ring_status status = ring_result(ledger_ring(call->admin->ledger), position, NULL);
	const char *kind = call->limit < PRICE_KINDS ? price_kind_name[call->limit] : KIND_ALL;
	char value[MONEY_TEXT_MAX] = "", uid[16];

	if (status == RING_NOSPACE) {
		(void)admin_error(call, "no_space", "price",
		    "the journal has %d prices, the most there can be", PRICE_MAX);
	} else if (status != RING_APPLIED) {
		(void)admin_refused(call, status);
	} else {
		(void)snprintf(uid, sizeof uid, "%u", (unsigned)call->peer);
		if (call->amount >= 0)
			(void)money_format(value, call->amount);
		log_event(LOG_INFO, call->amount >= 0 ? "price set" : "price reset", "model",
		    region_names(call->admin->region)->model[call->at], "kind", kind, "price", value,
	    "uid", uid, NULL);
		put_model(admin_result(call), call->admin, (int)call->at);
	}
	admin_finish(call);
}

static enum admin_step
change(
    struct admin_call *call, const struct proto_value *model, enum price_kind kind, int64_t value)
{
	struct admin *a = call->admin;
	int i = config_model(a->heritage->config, model->text, model->len);
	struct journal_price_set payload = {
	    .kind = (uint16_t)kind, .model_len = (uint16_t)model->len};
	struct journal_record record = {
	    .type = JOURNAL_PRICE_SET,
	    .version = JOURNAL_VERSION,
	    .proc = PROC_ADMIN,
	    .slot = JOURNAL_NONE,
	    .account = JOURNAL_NONE,
	    .price = JOURNAL_NONE,
	    .amount = value,
	    .time_us = realtime_us(),
	};
	uint64_t position;

	if (i < 0)
		return admin_error(call, "model_not_found", "model",
		    "there is no such model in the configuration");
	call->at = (uint32_t)i;
	call->limit = kind;
	call->amount = value;
	position = ring_push2(
	    ledger_ring(a->ledger), &record, &payload, sizeof payload, model->text, model->len);
	if (position == 0)
		return ADMIN_BUSY;
	durable_wait(a->durable, position, set_cb, call);
	return ADMIN_LATER;
}

static enum admin_step
no_kind(struct admin_call *call, const char *more)
{
	return admin_error(call, "invalid_argument", "kind",
	    "a kind is prompt, cached, cache_write, completion, reasoning or request%s", more);
}

enum admin_step
admin_price_set(struct admin_call *call, const struct proto_value *v)
{
	enum price_kind kind = price_kind(v[1].text, v[1].len);

	return kind == PRICE_KINDS ? no_kind(call, "") : change(call, &v[0], kind, v[2].number);
}

enum admin_step
admin_price_reset(struct admin_call *call, const struct proto_value *v)
{
	enum price_kind kind = price_kind(v[1].text, v[1].len);

	if (kind == PRICE_KINDS &&
	    (v[1].len != strlen(KIND_ALL) || memcmp(v[1].text, KIND_ALL, v[1].len) != 0))
		return no_kind(call, ", or all");
	return change(call, &v[0], kind, PRICE_UNSET);
}
