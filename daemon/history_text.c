/* What a user said, read back.  Pure. */
#include "daemon/history_text.h"

#include "daemon/plain_request.h"
#include "daemon/utf8.h"

bool
history_said_read(struct span json, struct history_said *s)
{
	static const char *const roles[] = {
	    "user", "assistant", "system", "developer", "tool", "function"};
	static const char *const keys[] = {"role", "content"};
	struct json_value root, v[2];

	*s = (struct history_said){.role = "user"};
	if (json_check(json.p, json.len, &root, NULL) != JSON_OK)
		return false;
	if (root.type == JSON_STRING) {
		s->content = root;
		return true;
	}
	if (root.type != JSON_OBJECT)
		return false;
	json_get_many(root, keys, v, 2);
	for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
		if (json_is(v[0], roles[i]))
			s->role = roles[i];
	s->content = v[1];
	return true;
}

void
history_said_write(const struct history_said *s, struct buf *b)
{
	plain_content_write(s->content, b);
}

void
history_title_write(const struct history_said *s, struct buf *b)
{
	struct buf json = {0}, text = {0};
	size_t at = 0, end, bad, n;
	struct json_value whole;
	unsigned chars = 0;

	plain_content_write(s->content, &json);
	whole = (struct json_value){JSON_STRING, json.data, json.len};
	if (!json.failed)
		json_decode_buf(whole, &text);
	while (at < text.len && (unsigned char)text.data[at] <= ' ')
		at++;
	for (end = at; end < text.len && text.data[end] != '\n' && text.data[end] != '\r' &&
	               chars < HISTORY_TITLE_CHARS;
	     end += n, chars++) {
		n = utf8_char(text.data + end, text.len - end, &bad);
		n = n == 0 ? bad : n;
		if ((unsigned char)text.data[end] < ' ')
			text.data[end] = ' ';
	}
	buf_str(b, "\"");
	if (end > at)
		buf_json_bare(b, text.data + at, end - at);
	if (end < text.len && text.data[end] != '\n' && text.data[end] != '\r')
		buf_str(b, "\xe2\x80\xa6");
	buf_str(b, "\"");
	buf_free(&json);
	buf_free(&text);
}
