#ifndef DAEMON_TOKENIZER_CLASS_H
#define DAEMON_TOKENIZER_CLASS_H

/*
 * What a character is to the patterns that cut text for byte-pair encoding.  Pure; the tables
 * are made by etc/tokenizers/classes.mjs.
 */
#include <stddef.h>
#include <stdint.h>

enum split_class {
	CLASS_OTHER,
	CLASS_UPPER,   /* Lu, Lt */
	CLASS_LOWER,   /* Ll */
	CLASS_UNCASED, /* Lm, Lo */
	CLASS_MARK,    /* M */
	CLASS_NUMBER,  /* N */
	CLASS_SPACE,   /* white space but for the next two */
	CLASS_NEWLINE, /* CR, LF */
	CLASS_BLANK,   /* U+0020 */
	CLASS_QUOTE,   /* U+0027 */
	CLASS_SLASH,   /* U+002F */
	CLASSES
};

extern const uint8_t split_block[8704];
extern const uint8_t split_class[230][128];

/*
 * Class of the character at p, of which at least one byte is there, and its length.  The text
 * is UTF-8; bytes that are not count as U+FFFD, one by one.
 */
static inline unsigned
class_of(const unsigned char *p, size_t left, size_t *n)
{
	uint32_t c = *p;

	*n = 1;
	if (c < 0x80)
		return split_class[0][c];
	if (c >= 0xc2 && c < 0xe0 && left >= 2 && (p[1] & 0xc0) == 0x80) {
		*n = 2;
		c = (c & 0x1f) << 6 | (p[1] & 0x3fu);
	} else if (c >= 0xe0 && c < 0xf0 && left >= 3 && (p[1] & 0xc0) == 0x80 &&
	           (p[2] & 0xc0) == 0x80) {
		*n = 3;
		c = (c & 0xf) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
	} else if (c >= 0xf0 && c < 0xf5 && left >= 4 && (p[1] & 0xc0) == 0x80 &&
	           (p[2] & 0xc0) == 0x80 && (p[3] & 0xc0) == 0x80) {
		*n = 4;
		c = (c & 0x7) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
		if (c >= 0x110000)
			return CLASS_OTHER;
	} else {
		return CLASS_OTHER;
	}
	return split_class[split_block[c >> 7]][c & 0x7f];
}

#endif
