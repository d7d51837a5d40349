/*
 * Goal:   what counting tokens costs.
 * Method: count a file whole, and as a stream of four-byte deltas with the count after each, again
 *         and again for half a second of processor time; print MB/s, ns (of the best round: others
 *         may be at work) and tokens as JSON.  (tests/bench/
 *         tokenizer-run puts npm's libraries beside it.)
 *
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o daemon/tokenizer_class.o daemon/tokenizer_table.o
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/tokenizer.h"

#define SECONDS 0.5
#define FILE_MAX (64u << 20)

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* At least four bytes of whole characters. */
static size_t
delta(const char *p, size_t left)
{
	size_t n = left < 4 ? left : 4;

	while (n < left && ((unsigned char)p[n] & 0xc0) == 0x80)
		n++;
	return n;
}

static uint32_t
stream(const struct tokenizer *t, const char *text, size_t len, size_t *deltas)
{
	struct token_stream ts;

	*deltas = 0;
	token_stream_init(&ts, t, TOKENS_SCALE);
	for (size_t at = 0; at < len; ++*deltas) {
		size_t n = delta(text + at, len - at);

		(void)token_stream_append(&ts, text + at, n);
		at += n;
	}
	token_stream_fini(&ts);
	return ts.now;
}

int
main(int argc, char **argv)
{
	char *text = malloc(FILE_MAX), why[256];
	FILE *f = argc == 3 ? fopen(argv[2], "rb") : NULL;
	const struct tokenizer *t = argc == 3 ? tokenizer_open(argv[1], why, sizeof why) : NULL;
	size_t len, deltas = 0;
	uint32_t tokens = 0, streamed = 0;
	double begin, end, whole, streams;

	if (f == NULL || t == NULL || text == NULL) {
		(void)fprintf(stderr, "usage: bench-tokenizer TOKENIZER FILE\n");
		return 2;
	}
	len = fread(text, 1, FILE_MAX, f);
	(void)tokenizer_count(t, TOKENS_SCALE, text, len);
	whole = streams = 1e9;
	for (end = now() + SECONDS; now() < end;) {
		begin = now();
		tokens = tokenizer_count(t, TOKENS_SCALE, text, len);
		whole = fmin(whole, now() - begin);
	}
	for (end = now() + SECONDS; now() < end;) {
		begin = now();
		streamed = stream(t, text, len, &deltas);
		streams = fmin(streams, now() - begin);
	}
	whole = (double)len / whole / 1e6;
	streams = streams / (double)deltas * 1e9;
	(void)printf("{\"bytes\":%zu,\"tokens\":%u,\"streamed\":%u,\"whole_mb_s\":%.2f,"
	             "\"delta_ns\":%.1f,\"stream_bytes\":%zu}\n",
	    len, tokens, streamed, whole, streams, sizeof(struct token_stream));
	fclose(f);
	free(text);
	return tokens == streamed ? 0 : 1;
}
