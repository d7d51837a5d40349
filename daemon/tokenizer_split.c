/*
 * Cutting text into pieces.  Pure.
 *
 * A table says for each state and class of the next character what happens.  Two things make the
 * end of a text uncertain for longer than a character: a run of white space (its last character
 * may belong to the word after it, and all up to its last line break is one piece), and in the
 * o200k family a run of capitals after an uncased letter (one piece if a small letter follows,
 * else two) and an apostrophe after a word.  There the tail has a middle (struct split).
 */
#include "daemon/tokenizer_split.h"

#include "daemon/tokenizer_class.h"

enum state {
	START,       /* nothing is open */
	AFTER_BLANK, /* one character that belongs to a word or to punctuation if such follows */
	AFTER_SPACE, /* the same, white space other than U+0020 */
	AFTER_OTHER, /* the same, of any other class */
	WORD,        /* cl100k: letters; o200k: small and uncased letters after one of these */
	CAPITALS,    /* o200k: capital and uncased letters; mid is behind the last uncased one */
	NUMBER,
	NUMBER_TWO,
	PUNCTUATION,
	LINE_ENDS, /* after punctuation */
	SPACES,    /* white space; mid is behind the last line break */
	QUOTE,     /* cl100k: an apostrophe, the first of its piece */
	QUOTE_LETTER,
	WORD_QUOTE, /* o200k: a word and an apostrophe; mid is between them */
	WORD_QUOTE_LETTER,
	STATES
};

/* What else can happen than going to a state. */
enum {
	TO_MID = 0x20,     /* take it, go to the state, mid is behind it */
	BEFORE_MID = 0x40, /* take it, go to the state, mid is before it */
	CLOSE = 0x80,      /* the piece ends before it */
	LAST,              /* and with it */
	LEAVE_CAPITALS,
	LEAVE_SPACES,
	TRY_QUOTE,
	TRY_QUOTE_LETTER,
	TRY_WORD_QUOTE,
	TRY_WORD_QUOTE_LETTER,
};

typedef uint8_t moves[STATES][CLASSES];

/* clang-format off */
/* The order of enum split_class: */
/* other  upper  lower  uncased  mark  number  space  newline  blank  quote  slash */
static const moves cl100k = {
[START] = {
	AFTER_OTHER, WORD, WORD, WORD, AFTER_OTHER, NUMBER, AFTER_SPACE, SPACES | TO_MID,
	AFTER_BLANK, QUOTE, AFTER_OTHER },
[AFTER_BLANK] = {
	PUNCTUATION, WORD, WORD, WORD, PUNCTUATION, CLOSE, SPACES, SPACES | TO_MID,
	SPACES, PUNCTUATION, PUNCTUATION },
[AFTER_SPACE] = {
	CLOSE, WORD, WORD, WORD, CLOSE, CLOSE, SPACES, SPACES | TO_MID,
	SPACES, CLOSE, CLOSE },
[AFTER_OTHER] = {
	PUNCTUATION, WORD, WORD, WORD, PUNCTUATION, CLOSE, CLOSE, LINE_ENDS,
	CLOSE, PUNCTUATION, PUNCTUATION },
[WORD] = {
	CLOSE, WORD, WORD, WORD, CLOSE, CLOSE, CLOSE, CLOSE,
	CLOSE, CLOSE, CLOSE },
[NUMBER] = {
	CLOSE, CLOSE, CLOSE, CLOSE, CLOSE, NUMBER_TWO, CLOSE, CLOSE,
	CLOSE, CLOSE, CLOSE },
[NUMBER_TWO] = {
	CLOSE, CLOSE, CLOSE, CLOSE, CLOSE, LAST, CLOSE, CLOSE,
	CLOSE, CLOSE, CLOSE },
[PUNCTUATION] = {
	PUNCTUATION, CLOSE, CLOSE, CLOSE, PUNCTUATION, CLOSE, CLOSE, LINE_ENDS,
	CLOSE, PUNCTUATION, PUNCTUATION },
[LINE_ENDS] = {
	CLOSE, CLOSE, CLOSE, CLOSE, CLOSE, CLOSE, CLOSE, LINE_ENDS,
	CLOSE, CLOSE, CLOSE },
[SPACES] = {
	LEAVE_SPACES, LEAVE_SPACES, LEAVE_SPACES, LEAVE_SPACES, LEAVE_SPACES, LEAVE_SPACES,
	SPACES, SPACES | TO_MID, SPACES, LEAVE_SPACES, LEAVE_SPACES },
[QUOTE] = {
	PUNCTUATION, TRY_QUOTE, TRY_QUOTE, WORD, PUNCTUATION, CLOSE, CLOSE, LINE_ENDS,
	CLOSE, PUNCTUATION, PUNCTUATION },
[QUOTE_LETTER] = {
	CLOSE, TRY_QUOTE_LETTER, TRY_QUOTE_LETTER, WORD, CLOSE, CLOSE, CLOSE, CLOSE,
	CLOSE, CLOSE, CLOSE },
};

static const moves o200k = {
[START] = {
	AFTER_OTHER, CAPITALS, WORD, CAPITALS | TO_MID, CAPITALS | TO_MID, NUMBER, AFTER_SPACE,
	SPACES | TO_MID, AFTER_BLANK, AFTER_OTHER, AFTER_OTHER },
[AFTER_BLANK] = {
	PUNCTUATION, CAPITALS, WORD, CAPITALS | TO_MID, CAPITALS | TO_MID, CLOSE, SPACES,
	SPACES | TO_MID, SPACES, PUNCTUATION, PUNCTUATION },
[AFTER_SPACE] = {
	CLOSE, CAPITALS, WORD, CAPITALS | TO_MID, CAPITALS | TO_MID, CLOSE, SPACES,
	SPACES | TO_MID, SPACES, CLOSE, CLOSE },
[AFTER_OTHER] = {
	PUNCTUATION, CAPITALS, WORD, CAPITALS | TO_MID, CAPITALS | TO_MID, CLOSE, CLOSE,
	LINE_ENDS, CLOSE, PUNCTUATION, PUNCTUATION },
[WORD] = {
	CLOSE, CLOSE, WORD, WORD, WORD, CLOSE, CLOSE, CLOSE,
	CLOSE, WORD_QUOTE | BEFORE_MID, CLOSE },
[CAPITALS] = {
	LEAVE_CAPITALS, CAPITALS, WORD, CAPITALS | TO_MID, CAPITALS | TO_MID, LEAVE_CAPITALS,
	LEAVE_CAPITALS, LEAVE_CAPITALS, LEAVE_CAPITALS, LEAVE_CAPITALS, LEAVE_CAPITALS },
[NUMBER] = {
	CLOSE, CLOSE, CLOSE, CLOSE, CLOSE, NUMBER_TWO, CLOSE, CLOSE,
	CLOSE, CLOSE, CLOSE },
[NUMBER_TWO] = {
	CLOSE, CLOSE, CLOSE, CLOSE, CLOSE, LAST, CLOSE, CLOSE,
	CLOSE, CLOSE, CLOSE },
[PUNCTUATION] = {
	PUNCTUATION, CLOSE, CLOSE, CLOSE, PUNCTUATION, CLOSE, CLOSE, LINE_ENDS,
	CLOSE, PUNCTUATION, PUNCTUATION },
[LINE_ENDS] = {
	CLOSE, CLOSE, CLOSE, CLOSE, CLOSE, CLOSE, CLOSE, LINE_ENDS,
	CLOSE, CLOSE, LINE_ENDS },
[SPACES] = {
	LEAVE_SPACES, LEAVE_SPACES, LEAVE_SPACES, LEAVE_SPACES, LEAVE_SPACES, LEAVE_SPACES,
	SPACES, SPACES | TO_MID, SPACES, LEAVE_SPACES, LEAVE_SPACES },
[WORD_QUOTE] = {
	TRY_WORD_QUOTE, TRY_WORD_QUOTE, TRY_WORD_QUOTE, TRY_WORD_QUOTE, TRY_WORD_QUOTE,
	TRY_WORD_QUOTE, TRY_WORD_QUOTE, TRY_WORD_QUOTE, TRY_WORD_QUOTE, TRY_WORD_QUOTE,
	TRY_WORD_QUOTE },
[WORD_QUOTE_LETTER] = {
	TRY_WORD_QUOTE_LETTER, TRY_WORD_QUOTE_LETTER, TRY_WORD_QUOTE_LETTER,
	TRY_WORD_QUOTE_LETTER, TRY_WORD_QUOTE_LETTER, TRY_WORD_QUOTE_LETTER,
	TRY_WORD_QUOTE_LETTER, TRY_WORD_QUOTE_LETTER, TRY_WORD_QUOTE_LETTER,
	TRY_WORD_QUOTE_LETTER, TRY_WORD_QUOTE_LETTER },
};
/* clang-format on */

/* The first `closed` bytes of the tail are a piece; what is left has this state. */
static void
cut(struct split *s, size_t closed, unsigned state)
{
	s->len -= (uint32_t)closed;
	s->mid = 0;
	s->state = (uint8_t)(s->len > 0 ? state : START);
}

static void
take(struct split *s, size_t n, unsigned state)
{
	s->len += (uint32_t)n;
	s->last = (uint8_t)n;
	s->state = (uint8_t)state;
}

/* The letter after an apostrophe: 0 if it makes a contraction, 1 if one that it expects would. */
static int
contraction(struct split *s, const char *p, size_t n)
{
	char c = (char)(*p | 0x20);

	/* U+017F is another s where case does not count. */
	if (n == 2 && (unsigned char)p[0] == 0xc5 && (unsigned char)p[1] == 0xbf)
		return 0;
	if (n != 1)
		return -1;
	if (c == 's' || c == 't' || c == 'm' || c == 'd')
		return 0;
	if (c != 'r' && c != 'v' && c != 'l')
		return -1;
	s->expect = c == 'l' ? 'l' : 'e';
	s->upper = *p < 'a';
	return 1;
}

/* More than going to a state: how many bytes of the character are taken. */
static size_t
act(const struct split_rule *r, struct split *s, unsigned move, const char *p, size_t n,
    size_t *closed)
{
	bool whole = !split_in_two(s);
	int how;

	switch (move) {
	case LAST:
		*closed = s->len + n;
		s->len = 0;
		cut(s, 0, START);
		return n;
	case LEAVE_CAPITALS:
		if (!whole) {
			*closed = s->mid;
			cut(s, s->mid, CAPITALS);
			return 0;
		}
		if (*p == '\'' && r->contractions) {
			s->mid = s->len;
			take(s, n, WORD_QUOTE);
			return n;
		}
		break;
	case LEAVE_SPACES:
		if (s->mid > 0) { /* up to the last line break; then once more */
			*closed = s->mid;
			how = s->len - s->mid > s->last ? SPACES : -1;
		} else { /* all but the last, which may begin a word */
			*closed = s->len - s->last;
			how = -1;
		}
		cut(s, *closed, how == SPACES ? SPACES : s->blank ? AFTER_BLANK : AFTER_SPACE);
		return 0;
	case TRY_QUOTE:
		how = contraction(s, p, n);
		if (how == 0)
			return act(r, s, LAST, p, n, closed);
		take(s, n, how == 1 ? QUOTE_LETTER : WORD);
		return n;
	case TRY_QUOTE_LETTER:
		if (n == 1 && (*p | 0x20) == s->expect)
			return act(r, s, LAST, p, n, closed);
		take(s, n, WORD);
		return n;
	case TRY_WORD_QUOTE:
		how = contraction(s, p, n);
		if (how == 0)
			return act(r, s, LAST, p, n, closed);
		if (how == 1) {
			take(s, n, WORD_QUOTE_LETTER);
			return n;
		}
		*closed = s->mid;
		cut(s, s->mid, AFTER_OTHER);
		return 0;
	case TRY_WORD_QUOTE_LETTER:
		if (n == 1 && (*p | 0x20) == s->expect)
			return act(r, s, LAST, p, n, closed);
		*closed = s->mid;
		cut(s, s->mid, s->upper ? CAPITALS : WORD);
		return 0;
	default:
		break;
	}
	*closed = s->len;
	cut(s, s->len, START);
	return 0;
}

/* Bytes of the character that ends before p, of those from `from` on. */
static uint8_t
last_len(const unsigned char *from, const unsigned char *p)
{
	uint8_t n = 1;

	while (n < 4 && n < p - from && (p[-n] & 0xc0) == 0x80)
		n++;
	return n;
}

size_t
split_next(
    const struct split_rule *r, struct split *s, const char *text, size_t len, size_t *closed)
{
	const moves *table = r->family == SPLIT_O200K ? &o200k : &cl100k;
	const unsigned char *p = (const unsigned char *)text, *end = p + len;
	const unsigned char *from = p; /* what is behind it is not in s->len yet */
	unsigned state = s->state, class = CLASS_OTHER, move;
	size_t n = 0;

	*closed = 0;
	while (p < end) {
		class = class_of(p, (size_t)(end - p), &n);
		move = (*table)[state][class];
		if (move < TO_MID && move != NUMBER) { /* nearly always */
			state = move;
			p += n;
			continue;
		}
		s->len += (uint32_t)(p - from);
		if (p > from) {
			s->last = last_len(from, p);
			s->blank = p[-1] == ' ';
		}
		s->state = (uint8_t)state;
		if (move == NUMBER && r->digits == 1)
			move = LAST;
		if (move == (WORD_QUOTE | BEFORE_MID) && !r->contractions)
			move = CLOSE;
		if (move >= CLOSE) {
			p += act(r, s, move, (const char *)p, n, closed);
			if (*closed > 0)
				return len - (size_t)(end - p);
		} else {
			if (move & BEFORE_MID)
				s->mid = s->len;
			take(s, n, move & (TO_MID - 1));
			if (move & TO_MID)
				s->mid = s->len;
			s->blank = false; /* and none of these is one */
			p += n;
		}
		from = p;
		state = s->state;
	}
	s->len += (uint32_t)(p - from);
	if (p > from) {
		s->last = (uint8_t)n;
		s->blank = class == CLASS_BLANK;
	}
	s->state = (uint8_t)state;
	return len;
}
