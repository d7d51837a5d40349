/*
 * How many tokens a text is, without a vocabulary: conservative, incremental, never going back.
 * Pure.
 *
 * Each character costs a fraction of a token that depends on its class, the class before it and
 * the length of the run of one class that it stands in.  Pairs of classes tell English from
 * base64 well enough: letters that seldom meet cost more.  The numbers were fitted to what
 * o200k_base and cl100k_base say of many kinds of text, so that the estimate is seldom below the
 * larger of the two (docs/metering.md).  Since the state after a text depends on its characters
 * alone, it makes no difference in which pieces they came.
 */
#include <stdint.h>

#include "daemon/estimate_table.h"
#include "daemon/tokenizer_ops.h"
#include "daemon/utf8.h"

#define UNITS_PER_TOKEN 64
#define UNITS_MAX (((uint64_t)1 << 40) - 1)
#define CREDIT_MAX 128 /* two tokens: what was cheap long ago must not pay for what is dear */
#define RUN_LONG 20
#define RUN_MAX 240    /* a multiple of 3: digits go by the run modulo 3 */

/* Classes; the table's order. */
enum class {
	START, /* before the first character */
	SPACE,
	BREAK,  /* newline, tab */
	DIGIT,
	VOWEL,  /* a e i o u */
	OFTEN,  /* other lower case, by how often English has them */
	MEDIUM,
	SELDOM,
	UPPER,  /* those of VOWEL and OFTEN */
	UPPER_SELDOM,
	QUOTE,
	STOP,   /* . , ; : ! ? */
	DASH,   /* - _ */
	BRACKET,
	SIGN,
	CONTROL,
	LATIN,  /* with marks */
	CYRILLIC_LOWER,
	CYRILLIC,
	TWO_BYTES,
	HAN,
	KANA,   /* and CJK punctuation, full width forms */
	HANGUL,
	THREE_BYTES,
	SYMBOL, /* general punctuation, arrows, mathematics, boxes */
	FOUR_BYTES,
	LATIN_SIGN,
	SELECTOR, /* of variants; emoji have them */
	ARABIC,   /* and Hebrew */
	GREEK,
	INDIC,    /* Devanagari, Bengali */
	THAI
};

/* A token_stream's state. */
struct state {
	uint64_t units;
	int credit;    /* units that cheap characters left for the next ones */
	unsigned run;  /* characters of the present run */
	unsigned last; /* enum class */
};

/* clang-format off */
static const uint8_t ascii_class[128] = {
	CONTROL, CONTROL, CONTROL, CONTROL, CONTROL, CONTROL, CONTROL, CONTROL,
	CONTROL, BREAK, BREAK, CONTROL, CONTROL, BREAK, CONTROL, CONTROL,
	CONTROL, CONTROL, CONTROL, CONTROL, CONTROL, CONTROL, CONTROL, CONTROL,
	CONTROL, CONTROL, CONTROL, CONTROL, CONTROL, CONTROL, CONTROL, CONTROL,
	/* space ! " # $ % & ' ( ) * + , - . / */
	SPACE, STOP, QUOTE, SIGN, SIGN, SIGN, SIGN, QUOTE,
	BRACKET, BRACKET, SIGN, SIGN, STOP, DASH, STOP, SIGN,
	DIGIT, DIGIT, DIGIT, DIGIT, DIGIT, DIGIT, DIGIT, DIGIT, DIGIT, DIGIT,
	/* : ; < = > ? @ */
	STOP, STOP, BRACKET, SIGN, BRACKET, STOP, SIGN,
	/* A to Z */
	UPPER, UPPER_SELDOM, UPPER, UPPER, UPPER, UPPER_SELDOM, UPPER_SELDOM, UPPER, UPPER,
	UPPER_SELDOM, UPPER_SELDOM, UPPER, UPPER, UPPER, UPPER, UPPER_SELDOM, UPPER_SELDOM,
	UPPER, UPPER, UPPER, UPPER, UPPER_SELDOM, UPPER_SELDOM, UPPER_SELDOM, UPPER_SELDOM,
	UPPER_SELDOM,
	/* [ \ ] ^ _ ` */
	BRACKET, SIGN, BRACKET, SIGN, DASH, QUOTE,
	/* a to z */
	VOWEL, MEDIUM, OFTEN, OFTEN, VOWEL, MEDIUM, MEDIUM, OFTEN, VOWEL, SELDOM, SELDOM, OFTEN,
	OFTEN, OFTEN, VOWEL, MEDIUM, SELDOM, OFTEN, OFTEN, OFTEN, VOWEL, MEDIUM, MEDIUM, SELDOM,
	MEDIUM, SELDOM,
	/* { | } ~ DEL */
	BRACKET, SIGN, BRACKET, SIGN, CONTROL,
};
/* clang-format on */

/* The class of a character from U+0080 on. */
static unsigned
wide_class(const char *text, size_t n)
{
	const unsigned char *p = (const unsigned char *)text;
	unsigned c;

	if (n == 4)
		return FOUR_BYTES;
	if (n == 2) {
		c = (unsigned)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
		if (c < 0x250)
			return c < 0xc0 ? LATIN_SIGN : LATIN;
		if (c >= 0x400 && c < 0x530)
			return c >= 0x430 && c < 0x460 ? CYRILLIC_LOWER : CYRILLIC;
		if (c >= 0x370 && c < 0x400)
			return GREEK;
		return c >= 0x590 && c < 0x780 ? ARABIC : TWO_BYTES;
	}
	c = (unsigned)(p[0] & 0xf) << 12 | (unsigned)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
	if (c >= 0x4e00 && c < 0xa000)
		return HAN;
	if ((c >= 0x3000 && c < 0x3100) || (c >= 0xff00 && c < 0xfff0))
		return KANA;
	if (c >= 0xac00 && c < 0xd7b0)
		return HANGUL;
	if (c >= 0x2000 && c < 0x2c00)
		return SYMBOL;
	if (c >= 0x900 && c < 0xa00)
		return INDIC;
	if (c >= 0xe00 && c < 0xe80)
		return THAI;
	return c >= 0xfe00 && c < 0xfe10 ? SELECTOR : THREE_BYTES;
}

static bool
is_latin(unsigned k)
{
	return k >= VOWEL && k <= UPPER_SELDOM;
}

static bool
is_cyrillic(unsigned k)
{
	return k == CYRILLIC_LOWER || k == CYRILLIC;
}

static unsigned
word_bucket(unsigned run)
{
	static const uint8_t bucket[21] = {
	    0, 0, 0, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5};

	return run < sizeof(bucket) ? bucket[run] : 6;
}

/* What the second and later characters of a run change. */
static int
run_cost(unsigned k, unsigned run)
{
	if (is_latin(k))
		return estimate_latin_run[word_bucket(run)];
	if (is_cyrillic(k))
		return estimate_cyrillic_run[word_bucket(run)];
	switch (k) {
	case DIGIT:
		return estimate_digit_run[run % 3];
	case SPACE:
		return estimate_space_run[run >= 4];
	case STOP:
	case DASH:
	case BRACKET:
	case SIGN:
		return estimate_mark_run[run < 3 ? 0 : run < 5 ? 1 : 2];
	default:
		return 0;
	}
}

static inline void
step(struct state *s, unsigned k)
{
	bool same = k == s->last || (is_latin(k) && is_latin(s->last)) ||
	    (is_cyrillic(k) && is_cyrillic(s->last));
	int cost = estimate_pair[s->last][k];

	if (same) {
		s->run = s->run < RUN_MAX ? s->run + 1 : RUN_MAX / 2 + 1;
		cost += run_cost(k, s->run);
		/* However cheap, a run without end is not free. */
		if (s->run > RUN_LONG && cost < 1)
			cost = 1;
	} else {
		s->run = 1;
	}
	s->last = k;
	/* The sum may dip; the count must not. */
	cost -= s->credit;
	s->credit = cost < 0 ? -cost < CREDIT_MAX ? -cost : CREDIT_MAX : 0;
	if (cost > 0 && s->units < UNITS_MAX - 512)
		s->units += (unsigned)cost;
}

/* The class of the character at p and its length; what is not UTF-8 counts as U+FFFD. */
static inline unsigned
next_class(const char *p, size_t left, size_t *n)
{
	size_t bad;

	*n = 1;
	if ((unsigned char)*p < 0x80)
		return ascii_class[(unsigned char)*p];
	*n = utf8_char(p, left, &bad);
	if (*n > 0)
		return wide_class(p, *n);
	*n = bad;
	return THREE_BYTES;
}

static inline struct state
unpack(uint64_t v)
{
	return (struct state){
	    .units = v >> 24,
	    .credit = (int)(v >> 16 & 0xff),
	    .run = (unsigned)(v >> 8 & 0xff),
	    .last = (unsigned)(v & 0x1f)};
}

static inline uint64_t
pack(struct state s)
{
	return s.units << 24 | (uint64_t)s.credit << 16 | (uint64_t)s.run << 8 | s.last;
}

static inline uint32_t
tokens(uint64_t units)
{
	uint64_t n = (units + UNITS_PER_TOKEN - 1) / UNITS_PER_TOKEN;

	return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

uint32_t
estimate_append(struct token_stream *ts, const char *text, size_t len)
{
	struct state s = unpack(ts->state);
	size_t n;

	for (size_t at = 0; at < len; at += n)
		step(&s, next_class(text + at, len - at, &n));
	ts->state = pack(s);
	ts->count = tokens(s.units);
	return ts->count;
}

size_t
estimate_fit(struct token_stream *ts, const char *text, size_t len, uint32_t limit)
{
	struct state s = unpack(ts->state), next;
	size_t at, n;

	for (at = 0; at < len; at += n) {
		next = s;
		step(&next, next_class(text + at, len - at, &n));
		if (tokens(next.units) > limit)
			break;
		s = next;
	}
	ts->state = pack(s);
	ts->count = tokens(s.units);
	return at;
}
