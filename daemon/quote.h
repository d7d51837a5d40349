#ifndef DAEMON_QUOTE_H
#define DAEMON_QUOTE_H

/*
 * What a request would cost and what it needs to start: the one place that preview and send
 * both ask.  Any process with the region; takes nothing.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/chat_request.h"
#include "daemon/config.h"
#include "shm/ledger.h"

struct quote {
	uint32_t min_tokens;  /* completion tokens that must be payable to start */
	uint32_t want_tokens; /* what the first reserve asks for */
	int64_t required;     /* micro-credits for min_tokens: less and it is a 402 */
	int64_t estimated_cost, max_cost;
};

/* The price now in force for a model of the config; its id. */
uint32_t quote_price(const struct region *, int model, struct price *);
void quote_make(const struct config *, const struct region *, const struct chat_request *,
    const struct price *, struct quote *);
/* What would a reserve be answered now: LEDGER_OK, LEDGER_CLOSED, or who cannot pay? */
enum ledger_result quote_ask(
    const struct account *, const struct key_entry *purse, const struct quote *);
/* What may be reserved now: by the account, in its budgets, and under the key's cap (NULL: there is
 * none).  *by: who has the least, LEDGER_SHORT for the account's credit; may be NULL. */
int64_t quote_available(
    const struct account *, const struct key_entry *purse, enum ledger_result *by);
/* Whose want it is that ends an answer or forbids it: "credit", "key_cap", "budget_day",
 * "budget_month". */
const char *quote_short_of(enum ledger_result);
/* The same as journals keep it, enum journal_short; of what is not known there, NULL and LEDGER_OK. */
uint8_t quote_short_code(enum ledger_result);
const char *quote_short_name(uint8_t code);
enum ledger_result quote_short_result(uint8_t code);
/* A stream of this model ended well: its length goes into the moving mean. */
void quote_learn(const struct region *, int model, uint32_t completion_tokens);

#endif
