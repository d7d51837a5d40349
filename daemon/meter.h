#ifndef DAEMON_METER_H
#define DAEMON_METER_H

/*
 * How far a stream may go: counts the tokens of what the provider sends, keeps the count on the
 * hold in shared memory before a byte of it is queued, asks for the next slice when half of one
 * is left, and finds the last payable token.  Worker; knows the ledger, not the network.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "daemon/durable.h"
#include "daemon/tokenizer.h"
#include "shm/ledger.h"

struct meter {
	struct ledger *ledger;
	struct durable *durable;
	struct hold *hold;
	/* Text; tool calls and other choices; reasoning. */
	struct token_stream shown, hidden, thought;
	uint32_t slice;
	struct price price;     /* the hold's */
	int64_t durable_amount; /* of it */
	uint32_t paid;       /* completion tokens that it pays for, the next ones being what came */
	uint32_t max_tokens; /* never more than this is paid for */
	uint32_t marked;     /* tokens at the last record of this hold */
	uint32_t safe;       /* tokens at its last durable record: what a power cut would charge */
	uint64_t extending;  /* ring position of the extend under way, or 0 */
	bool unbounded;      /* what comes beyond max_tokens cannot be cut off any more */
	bool dear_prompt;    /* costs more than a slice: journal the first token */
	uint32_t reasoned;   /* tokens of reasoning, as far as all tokens are billable */
	bool reasoning;      /* what came last, and what is paid ahead */
	bool waiting;        /* METER_WAIT was said: resume() is owed */
	enum ledger_result short_of; /* METER_CUT was said: who could not pay more */
	/* What was waited for is durable: offer the rest of the text.  slice: a new one began. */
	void (*resume)(void *arg, bool slice);
	void *arg;
};

enum meter_kind {
	METER_SHOWN,   /* text */
	METER_HIDDEN,  /* it only counts */
	METER_THOUGHT, /* reasoning: the same, at a price of its own */
};

enum meter_result {
	METER_TAKEN, /* all of it */
	METER_WAIT,  /* *taken bytes: a record is on its way to disk, resume() will be called */
	METER_BUSY,  /* *taken bytes: the ring is full, offer the rest when it has room */
	METER_CUT,   /* *taken bytes, and that was the last payable token */
	METER_OVER,  /* *taken bytes, which is far more than the provider was told to say */
};

/* The hold's reserve is durable. */
void meter_init(struct meter *, struct ledger *, struct durable *, struct hold *,
    const struct tokenizer *, uint32_t scale, uint32_t slice,
    void (*resume)(void *arg, bool slice_began), void *arg);

/*
 * Take a piece (whole characters) of text that is shown, or of one that only counts.  `saved` is
 * what was shown since the last record of the hold; it goes into the journal with a slice's
 * record, and *saved_now says that it did.
 */
enum meter_result meter_take(struct meter *, enum meter_kind, const char *text, size_t len,
    struct span saved, size_t *taken, bool *saved_now) __attribute__((warn_unused_result));

/* The provider was told to end after so many tokens: a count of ours beyond them is its error. */
void meter_limit(struct meter *, uint32_t tokens);
void meter_fini(struct meter *);

/*
 * Has the provider said more than it was told to, by more than our count can be wrong?  By how many
 * tokens we count it then; 0: it has not.  (Thoughts aside: some do not count theirs.)
 */
uint32_t meter_overrun(const struct meter *);

/* Tokens produced so far, as they are charged; what it costs. */
uint32_t meter_tokens(const struct meter *);
uint32_t meter_reasoning(const struct meter *); /* of them */
int64_t meter_cost(const struct meter *);
/* The count itself: before the estimate's factor, and lower again where text made it so. */
uint32_t meter_counted(const struct meter *);

#endif
