#ifndef DAEMON_BUF_H
#define DAEMON_BUF_H

/* A growable byte buffer.  Owner frees; any process. */
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
	char *data;
	size_t len, cap;
	bool failed; /* out of memory once: contents are not whole, appends do nothing */
};

/* A piece of somebody else's memory. */
struct span {
	const char *p;
	size_t len;
};
#define SPAN(literal) ((struct span){(literal), sizeof(literal) - 1})

bool span_eq(struct span, const char *text);
bool span_case_eq(struct span, const char *text); /* ASCII */
struct span span_trim(struct span);               /* without blanks and tabs at its ends */

void buf_free(struct buf *);
/* Room for n more bytes at data + len; NULL and failed when out of memory. */
char *buf_reserve(struct buf *, size_t n);
void buf_add(struct buf *, const void *, size_t);
void buf_str(struct buf *, const char *);
void buf_span(struct buf *, struct span);
void buf_printf(struct buf *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_vprintf(struct buf *, const char *fmt, va_list) __attribute__((format(printf, 2, 0)));
void buf_u64(struct buf *, uint64_t);
/* Credits as a JSON number, from micro-credits. */
void buf_money(struct buf *, int64_t);
/* A JSON string with its quotes; invalid UTF-8 becomes U+FFFD. */
void buf_json(struct buf *, const char *, size_t);
/* The same without quotes. */
void buf_json_bare(struct buf *, const char *, size_t);
/* Drop the first n bytes. */
void buf_consume(struct buf *, size_t n);

#endif
