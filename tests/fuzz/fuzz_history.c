/*
 * Goal:   whatever stands in the history as said by somebody, what is made of it for a reader is JSON:
 *         its text as one string, and a title that is a line of whole characters.
 * Method: libFuzzer or AFL++; the input is what a row says, first as it is, then as a string.
 *
 * objs: daemon/history_text.o daemon/plain_message.o daemon/plain_request.o daemon/plain_tools.o
 * objs: daemon/chat_request.o daemon/chat_keys.o daemon/chat_tokens.o daemon/calibrate.o
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o daemon/tokenizer_class.o daemon/tokenizer_table.o
 * objs: daemon/ids.o daemon/log.o daemon/json.o daemon/json_value.o daemon/utf8.o daemon/buf.o
 * objs: shm/money.o
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/config.h"
#include "daemon/history_text.h"
#include "daemon/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)          \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

/* In place of daemon/config.c. */
int
config_model(const struct config *c, const char *name, size_t len)
{
	(void)c;
	(void)name;
	(void)len;
	return -1;
}

/* It is a JSON string; its text and how many characters that has. */
static size_t
characters(const struct buf *b, char *text, size_t *len)
{
	struct json_value v;
	size_t n = 0;

	CHECK(!b->failed && json_check(b->data, b->len, &v, NULL) == JSON_OK);
	CHECK(v.type == JSON_STRING && utf8_valid(b->data, b->len));
	*len = json_decode(v, text);
	CHECK(utf8_valid(text, *len));
	for (size_t i = 0; i < *len; i++)
		n += (text[i] & 0xc0) != 0x80;
	return n;
}

static void
read_said(const char *bytes, size_t len)
{
	struct history_said said;
	struct buf b = {0};
	char *text;
	size_t n;

	if (!history_said_read((struct span){bytes, len}, &said))
		return;
	text = malloc(4 * len + 64);
	CHECK(text != NULL && said.role != NULL);
	history_said_write(&said, &b);
	(void)characters(&b, text, &n);
	b.len = 0;
	history_title_write(&said, &b);
	/* Behind what was cut there stands an ellipsis. */
	CHECK(characters(&b, text, &n) <= HISTORY_TITLE_CHARS + 1);
	CHECK(memchr(text, '\n', n) == NULL);
	free(text);
	buf_free(&b);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf b = {0};

	read_said((const char *)data, size);
	if (utf8_valid((const char *)data, size)) {
		buf_json(&b, (const char *)data, size);
		read_said(b.data, b.len);
		buf_free(&b);
	}
	return 0;
}
