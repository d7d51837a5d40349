/*
 * Goal:   no bytes of a provider crash the response parser, and no cut of them changes what it
 *         says.
 * Method: libFuzzer.  The first byte chooses the cut; the rest is fed whole, in two pieces and
 *         byte by byte, from exactly sized memory.
 *
 * objs: daemon/response.o daemon/buf.o shm/money.o
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/response.h"

struct seen {
	struct buf body;
	int heads, status, result;
	bool reusable;
};

static bool
head(void *arg, const struct response *r)
{
	((struct seen *)arg)->heads++;
	((struct seen *)arg)->status = r->status;
	return true;
}

static bool
body(void *arg, const char *p, size_t n)
{
	buf_add(&((struct seen *)arg)->body, p, n);
	return true;
}

static void
feed(const uint8_t *data, size_t len, size_t first, size_t then, struct seen *s)
{
	struct response r;
	size_t at = 0, n = first;

	*s = (struct seen){.result = RESPONSE_MORE};
	response_init(&r);
	while (at < len && s->result == RESPONSE_MORE) {
		char *copy;

		n = n < len - at ? n : len - at;
		copy = malloc(n);
		memcpy(copy, data + at, n);
		s->result = (int)response_feed(&r, copy, n, head, body, s);
		free(copy);
		at += n;
		n = then;
	}
	s->reusable = response_reusable(&r) && at == len;
	response_fini(&r);
}

static void
same(const struct seen *a, const struct seen *b)
{
	if (a->result != b->result || a->status != b->status || a->heads != b->heads ||
	    a->reusable != b->reusable || a->body.len != b->body.len ||
	    (a->body.len > 0 && memcmp(a->body.data, b->body.data, a->body.len) != 0))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct seen whole, cut, bytes;

	if (len < 2)
		return 0;
	feed(data + 1, len - 1, len, len, &whole);
	feed(data + 1, len - 1, 1 + data[0], len, &cut);
	feed(data + 1, len - 1, 1, 1, &bytes);
	same(&whole, &cut);
	same(&whole, &bytes);
	buf_free(&whole.body);
	buf_free(&cut.body);
	buf_free(&bytes.body);
	return 0;
}
