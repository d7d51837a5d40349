/*
 * Metering in flight.  Worker process.
 *
 * Two invariants.  hold->meter never exceeds what durable records pay for, and no byte is queued
 * for a client before its tokens are in hold->meter: so a kill at any instruction charges what
 * was decoded and perhaps not yet flushed, and never delivers text that nobody pays.  And the
 * meter is never more than a slice ahead of the last durable record: so a power cut, which takes
 * the meter with it, leaves at most that uncharged.  (A slice of fewer tokens than one character
 * makes lets that character pass.)  Records are pushed every half slice, so that in a stream that
 * runs well nothing ever waits for them.
 */
#include "daemon/meter.h"

#include <stdlib.h>

#include "daemon/utf8.h"
#include "shm/fault.h"

/* Shown text that waits for a record: with a piece of the greatest length it fits into a ring. */
#define SAVED_MAX (256u << 10)

/*
 * The provider was told to end at max_tokens of its own tokens, so a count of ours beyond that is
 * an estimate's error: it is neither charged nor a reason to cut.  But not without end: who knows
 * of a provider that does not know the limit by the name that a client may choose for it would get
 * thousands of tokens for the price of one.
 */
static uint32_t
billable(const struct meter *m, uint32_t counted)
{
	return counted < m->max_tokens ? counted : m->max_tokens;
}

/*
 * So much may our count have where a provider keeps to its limit.  An exact one is wrong by what a
 * model spells otherwise than its tokenizer, and by a name in the config that is nearly the right
 * one; an estimate may be anything, for some texts.
 */
static uint32_t
utmost(const struct meter *m)
{
	uint64_t n = m->max_tokens;

	n += tokenizer_exact(m->shown.tokenizer) ? n / 2 + 16 : 3 * n + 64;
	return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

uint32_t
meter_overrun(const struct meter *m)
{
	uint32_t said = m->shown.count + m->hidden.count;

	return said > utmost(m) ? said : 0;
}

uint32_t
meter_counted(const struct meter *m)
{
	return m->shown.now + m->hidden.now + m->thought.now;
}

uint32_t
meter_tokens(const struct meter *m)
{
	return billable(m, m->shown.count + m->hidden.count + m->thought.count);
}

uint32_t
meter_reasoning(const struct meter *m)
{
	return m->reasoned;
}

/* Tokens in all that are paid, if the next ones are reasoning, or if they are not. */
static uint32_t
payable(const struct meter *m, bool reasoning)
{
	struct tokens t = {.prompt = m->hold->prompt,
	    .completion = meter_tokens(m),
	    .reasoning = meter_reasoning(m)};
	int64_t n = price_covers_of(&m->price, &t, reasoning, m->durable_amount);

	return n < 0 ? 0 : n < m->max_tokens ? (uint32_t)n : m->max_tokens;
}

/* Do both kinds cost the same?  Then `paid` holds for either. */
static bool
one_price(const struct meter *m)
{
	return m->price.reasoning == m->price.completion;
}

void
meter_init(struct meter *m, struct ledger *ledger, struct durable *durable, struct hold *hold,
    const struct tokenizer *tokenizer, uint32_t scale, uint32_t slice,
    void (*resume)(void *arg, bool slice_began), void *arg)
{
	*m = (struct meter){
	    .ledger = ledger,
	    .durable = durable,
	    .hold = hold,
	    .slice = slice,
	    .max_tokens = hold->max_tokens,
	    .resume = resume,
	    .arg = arg,
	};
	m->price = hold->price;
	m->durable_amount = hold->amount;
	token_stream_init(&m->shown, tokenizer, scale);
	token_stream_init(&m->hidden, tokenizer, scale);
	token_stream_init(&m->thought, tokenizer, scale);
	m->paid = payable(m, false);
	m->dear_prompt = price_cost(&hold->price, hold->prompt, 0, 0) >
	    price_cost(&hold->price, 0, 0, slice) - hold->price.request;
}

void
meter_limit(struct meter *m, uint32_t tokens)
{
	if (tokens < m->max_tokens)
		m->max_tokens = tokens;
	m->paid = billable(m, m->paid);
}

void
meter_fini(struct meter *m)
{
	token_stream_fini(&m->shown);
	token_stream_fini(&m->hidden);
	token_stream_fini(&m->thought);
}

/* Count what fits of a piece; of tokens beyond what is billable it does not matter what they are. */
static size_t
count(struct meter *m, struct token_stream *mine, const char *text, size_t len, uint32_t limit)
{
	uint32_t before = meter_tokens(m), had = mine->count;
	size_t taken = token_stream_fit(mine, text, len, limit);

	if (mine == &m->thought) {
		uint32_t more = mine->count - had, room = m->max_tokens - before;

		m->reasoned += more < room ? more : room;
	}
	return taken;
}

/* Before a byte of it is queued. */
static void
store(const struct meter *m)
{
	ledger_meter(m->hold, meter_tokens(m), meter_reasoning(m));
}

int64_t
meter_cost(const struct meter *m)
{
	return price_cost_of(&m->hold->price,
	    &(struct tokens){.prompt = m->hold->prompt,
	        .completion = meter_tokens(m),
	        .reasoning = meter_reasoning(m)});
}

/* What the record at a durable position said of the meter. */
static uint32_t
recorded(const struct meter *m, uint64_t position)
{
	return ring_peek(ledger_ring(m->ledger), position)->record.completion;
}

static void
resume(struct meter *m, bool slice_began)
{
	bool waited = m->waiting;

	m->waiting = false;
	if (waited || slice_began)
		m->resume(m->arg, slice_began);
}

/* Both callbacks come before the settlement's, whose record is behind theirs in the ring. */
static void
extended_cb(void *arg, uint64_t position)
{
	struct meter *m = arg;

	FAULT("meter.extended");
	m->extending = 0;
	m->durable_amount = m->hold->amount;
	m->paid = payable(m, m->reasoning);
	m->safe = recorded(m, position);
	resume(m, true);
}

static void
marked_cb(void *arg, uint64_t position)
{
	struct meter *m = arg;

	FAULT("meter.marked");
	m->safe = recorded(m, position);
	resume(m, false);
}

/* Take more credit, to pay for `want` tokens in all. */
static enum ledger_result
extend(struct meter *m, uint32_t want, struct span saved, bool *saved_now)
{
	uint64_t position;
	enum ledger_result r =
	    ledger_extend(m->ledger, m->hold, want, m->reasoning, saved.p, saved.len, &position);

	if (r != LEDGER_OK || position == 0)
		return r;
	m->extending = position;
	m->marked = meter_tokens(m);
	*saved_now = true;
	durable_later(m->durable, position, extended_cb, m);
	return r;
}

/* Journal what the meter says. */
static enum ledger_result
mark(struct meter *m, struct span saved, bool *saved_now)
{
	uint64_t position;
	enum ledger_result r = ledger_mark(m->ledger, m->hold, saved.p, saved.len, &position);

	if (r != LEDGER_OK)
		return r;
	m->marked = meter_tokens(m);
	m->dear_prompt = false;
	*saved_now = true;
	durable_later(m->durable, position, marked_cb, m);
	return r;
}

static uint32_t
ahead(const struct meter *m)
{
	return m->max_tokens - m->paid < m->slice ? m->max_tokens : m->paid + m->slice;
}

/*
 * After a piece was taken: a slice ahead, or a mark, when it is time.  If the ring is full or
 * the credit short, the next piece finds out.
 */
static void
look_ahead(struct meter *m, uint32_t tokens, struct span saved, bool *saved_now)
{
	if (m->extending == 0 && m->paid < m->max_tokens && m->paid - tokens <= m->slice / 2 &&
	    extend(m, ahead(m), saved, saved_now) == LEDGER_OK)
		return;
	if (tokens - m->marked >= (m->slice + 1) / 2 || (m->dear_prompt && tokens > 0))
		(void)mark(m, saved, saved_now);
}

static enum meter_result
wait_for_disk(struct meter *m)
{
	m->waiting = true;
	durable_hurry(m->durable);
	return METER_WAIT;
}

/* More than was paid ahead: the next slice, or the end. */
static enum meter_result
need_slice(struct meter *m, struct span saved, bool *saved_now)
{
	if (m->extending == 0) {
		enum ledger_result r = extend(m, ahead(m), saved, saved_now);

		switch (r) {
		case LEDGER_OK:
			break;
		case LEDGER_BUSY:
			return METER_BUSY;
		default:
			m->short_of = r;
			return METER_CUT;
		}
	}
	return wait_for_disk(m);
}

/*
 * As much of a piece as is paid and near enough to the disk; the rest later.  Counting stops at
 * that limit, so that a piece is counted once: what a whole one would come to is not known.
 */
static enum meter_result
take_part(struct meter *m, struct token_stream *mine, bool far, const char *text, size_t len,
    uint32_t other, struct span saved, size_t *taken, bool *saved_now)
{
	size_t bad;

	/* No record would make room for a character that is more than a slice. */
	if (far && *taken == 0 && meter_tokens(m) == m->safe && m->paid > other) {
		*taken = count(m, mine, text, utf8_char(text, len, &bad), m->paid - other);
		far = *taken > 0;
	}
	store(m);
	FAULT("meter.part");
	if (!far)
		return need_slice(m, saved, saved_now);
	if (m->marked <= m->safe && mark(m, saved, saved_now) != LEDGER_OK)
		return METER_BUSY;
	return wait_for_disk(m);
}

/* Where the count of all kinds ends, if all is paid and this kind goes on. */
static uint32_t
end_of(const struct meter *m, enum meter_kind kind)
{
	uint32_t most = utmost(m);

	if (m->unbounded || kind == METER_THOUGHT || most > UINT32_MAX - m->thought.count)
		return UINT32_MAX;
	return most + m->thought.count;
}

enum meter_result
meter_take(struct meter *m, enum meter_kind kind, const char *text, size_t len, struct span saved,
    size_t *taken, bool *saved_now)
{
	struct token_stream *const all[] = {&m->shown, &m->hidden, &m->thought}, *mine = all[kind];
	uint32_t other = m->shown.count + m->hidden.count + m->thought.count - mine->count;
	uint32_t most;
	bool far, last;

	if (m->reasoning != (kind == METER_THOUGHT) || !one_price(m)) {
		m->reasoning = kind == METER_THOUGHT;
		m->paid = payable(m, m->reasoning);
	}
	far = m->paid - m->safe > m->slice; /* it is the disk that is to come nearer */
	most = far ? m->safe + m->slice : m->paid;
	*taken = 0;
	*saved_now = false;
	/* Half a slice may be more text than any record could ever carry: blanks are cheap. */
	if (saved.len > SAVED_MAX) {
		if (mark(m, saved, saved_now) != LEDGER_OK)
			return METER_BUSY;
		saved = SPAN("");
	}
	/* All is paid that can be: what our count has beyond it is not charged. */
	last = most == m->max_tokens;
	if (last)
		most = end_of(m, kind);
	if (most >= other)
		*taken = count(m, mine, text, len, most - other);
	if (*taken < len && !last)
		return take_part(m, mine, far, text, len, other, saved, taken, saved_now);
	store(m);
	FAULT("meter.stored");
	if (*taken < len)
		return METER_OVER;
	look_ahead(m, meter_tokens(m), saved, saved_now);
	return METER_TAKEN;
}
