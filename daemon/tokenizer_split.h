#ifndef DAEMON_TOKENIZER_SPLIT_H
#define DAEMON_TOKENIZER_SPLIT_H

/*
 * Cuts text into the pieces that are byte-pair encoded each for itself, as the regular
 * expressions of OpenAI's tokenizers and their kin do.  Pure, and resumable at any character:
 * what has been seen since the last certain end of a piece is the tail, and its description is
 * all the state there is.  Nothing is ever looked at twice.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which pattern; part of a vocabulary's table, so the numbers are for ever. */
enum split_family {
	SPLIT_CL100K = 0, /* letters of one kind; 's and the like are pieces of their own */
	SPLIT_O200K = 1,  /* words end where lower case meets upper; 's belongs to its word */
};

struct split_rule {
	uint8_t family;
	uint8_t digits;       /* of a piece at most: 1 or 3 */
	uint8_t contractions; /* 's and the like are known */
};

struct split {
	uint32_t len; /* bytes of the tail */
	/*
	 * If it ended here, the tail would be two pieces that meet at mid, where 0 < mid < len;
	 * more text may make one of them.
	 */
	uint32_t mid;
	uint8_t state;
	uint8_t last;   /* bytes of its last character */
	uint8_t expect; /* what would make a contraction of r, v or l */
	bool upper;     /* was that an upper case letter? */
	bool blank;     /* its last character is U+0020 */
};

static inline bool
split_in_two(const struct split *s)
{
	return s->mid > 0 && s->mid < s->len;
}

/*
 * Go on with text (whole characters) until a piece is certain to end.  Returns how many bytes
 * were taken; *closed is the length of that piece, from the tail's start, and the rest of the
 * tail becomes the tail.  *closed is 0 if the text ended first.
 */
size_t split_next(
    const struct split_rule *, struct split *, const char *text, size_t len, size_t *closed);

#endif
