/*
 * Goal:   no bytes crash the HTTP parser, and no cut of them changes what it says.
 * Method: libFuzzer.  The first two bytes choose the cut; the rest is parsed whole, in two pieces
 *         and byte by byte, as a head and as a chunked body, always from exactly sized memory.
 *
 * objs: daemon/buf.o daemon/http.o daemon/http_chunked.o shm/money.o
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/http.h"

#define BODY_MAX 1000
#define CHECK(condition) ((condition) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

struct head {
	enum http_parse parse;
	struct http_fault fault;
	struct http_request rq;
	size_t head_len;
	char *bytes;
};

static void
head_parse(struct head *h, const char *bytes, size_t len, size_t *scanned)
{
	h->bytes = malloc(len > 0 ? len : 1);
	memcpy(h->bytes, bytes, len);
	h->parse = http_parse_head(h->bytes, len, scanned, &h->rq, &h->head_len, &h->fault);
}

static void
same_span(struct span a, struct span b)
{
	CHECK(a.len == b.len && memcmp(a.p, b.p, a.len) == 0);
}

static void
same_head(const struct head *a, const struct head *b)
{
	CHECK(a->parse == b->parse);
	if (a->parse == HTTP_PARSE_BAD)
		CHECK(a->fault.status == b->fault.status && a->fault.why == b->fault.why);
	if (a->parse != HTTP_PARSE_OK)
		return;
	CHECK(a->head_len == b->head_len && a->rq.headers == b->rq.headers);
	CHECK(a->rq.content_length == b->rq.content_length && a->rq.chunked == b->rq.chunked);
	CHECK(a->rq.keep_alive == b->rq.keep_alive && a->rq.minor == b->rq.minor);
	same_span(a->rq.path, b->rq.path);
	same_span(a->rq.query, b->rq.query);
	for (int i = 0; i < a->rq.headers; i++) {
		same_span(a->rq.header[i].name, b->rq.header[i].name);
		same_span(a->rq.header[i].value, b->rq.header[i].value);
	}
}

/* What must hold of any request that was accepted. */
static void
sane(const struct head *h)
{
	const struct http_request *rq = &h->rq;
	const char *end = h->bytes + h->head_len;
	char out[64];
	size_t len;

	CHECK(h->head_len <= HTTP_HEAD_MAX + 2 && memcmp(end - 4, "\r\n\r\n", 4) == 0);
	CHECK(!(rq->chunked && rq->has_length));
	CHECK(rq->minor == 0 || http_header(rq, "host").p != NULL);
	CHECK(rq->path.len > 0);
	for (const char *p = h->bytes; p < end; p++)
		CHECK(*p != '\0' && (*p != '\n' || p[-1] == '\r') && (*p != '\r' || p[1] == '\n'));
	if (http_query(rq->query, "id", out, sizeof(out), &len))
		CHECK(len < sizeof(out) && strlen(out) == len);
}

static void
fuzz_head(const char *bytes, size_t len, size_t cut)
{
	struct head whole, split;
	size_t scanned = 0;

	head_parse(&whole, bytes, len, &scanned);
	if (whole.parse == HTTP_PARSE_OK)
		sane(&whole);
	scanned = 0;
	head_parse(&split, bytes, cut, &scanned);
	if (split.parse == HTTP_PARSE_MORE) {
		free(split.bytes);
		head_parse(&split, bytes, len, &scanned);
	}
	same_head(&whole, &split);
	free(split.bytes);
	scanned = 0;
	for (size_t n = 0; n <= len && len < 400; n++) {
		head_parse(&split, bytes, n, &scanned);
		if (split.parse != HTTP_PARSE_MORE || n == len)
			same_head(&whole, &split);
		free(split.bytes);
		if (split.parse != HTTP_PARSE_MORE)
			break;
	}
	free(whole.bytes);
}

struct body {
	enum http_parse parse;
	struct http_fault fault;
	struct http_chunked ch;
	struct buf data;
	size_t taken;
};

static void
body_feed(struct body *b, const char *bytes, size_t len)
{
	char *copy;
	size_t used = 0;

	if (len == 0 || b->parse != HTTP_PARSE_MORE)
		return;
	copy = malloc(len);
	memcpy(copy, bytes, len);
	b->parse = http_chunked_feed(&b->ch, copy, len, &used, &b->data, BODY_MAX, &b->fault);
	b->taken += used;
	free(copy);
}

static void
same_body(const struct body *a, const struct body *b)
{
	CHECK(a->parse == b->parse && a->taken == b->taken && a->data.len == b->data.len);
	CHECK(a->data.len <= BODY_MAX);
	CHECK(a->data.len == 0 || memcmp(a->data.data, b->data.data, a->data.len) == 0);
	if (a->parse == HTTP_PARSE_BAD)
		CHECK(a->fault.status == b->fault.status && a->fault.why == b->fault.why);
}

static void
fuzz_body(const char *bytes, size_t len, size_t cut)
{
	struct body whole = {.parse = HTTP_PARSE_MORE}, split = whole, each = whole;

	body_feed(&whole, bytes, len);
	body_feed(&split, bytes, cut);
	body_feed(&split, bytes + cut, len - cut);
	for (size_t i = 0; i < len; i++)
		body_feed(&each, bytes + i, 1);
	same_body(&whole, &split);
	same_body(&whole, &each);
	buf_free(&whole.data);
	buf_free(&split.data);
	buf_free(&each.data);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *bytes = (const char *)data + 2;
	size_t len, cut;

	if (size < 2)
		return 0;
	len = size - 2;
	cut = ((size_t)data[0] << 8 | data[1]) % (len + 1);
	fuzz_head(bytes, len, cut);
	fuzz_body(bytes, len, cut);
	return 0;
}
