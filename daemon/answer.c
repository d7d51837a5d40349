/*
 * What all dialects' answers have in common.  Pure.
 */
#include "daemon/answer.h"

#include <string.h>

void
answer_forget(struct answer *a)
{
	bool whole = a->whole;

	buf_free(&a->content);
	buf_free(&a->reasoning);
	buf_free(&a->tools);
	buf_free(&a->input);
	*a = (struct answer){.whole = whole};
}

bool
answer_failed(const struct answer *a)
{
	return a->content.failed || a->reasoning.failed || a->tools.failed || a->input.failed;
}

static size_t
id_len(struct span id)
{
	const size_t room = sizeof((struct answer *)NULL)->call_id - 1;

	return id.len < room ? id.len : room;
}

bool
answer_continues(const struct answer *a, const struct answer_piece *p)
{
	size_t n = id_len(p->id);

	return a->at.open == OPEN_CALL && p->index != DELTA_CALL_WHOLE && p->index == a->call &&
	       (n == 0 || (strlen(a->call_id) == n && memcmp(a->call_id, p->id.p, n) == 0));
}

void
answer_begin_call(struct answer *a, const struct answer_piece *p)
{
	size_t n = id_len(p->id);

	memcpy(a->call_id, p->id.p, n);
	a->call_id[n] = '\0';
	a->call = p->index;
	a->has_arguments = p->text.len > 0;
	a->calls++;
	a->at.blocks++;
	a->at.open = OPEN_CALL;
}

void
answer_call_id(struct buf *b, const struct answer *a, const struct answer_piece *p,
    const char *prefix, const char *answer_id)
{
	buf_str(b, "\"");
	if (p->id.len > 0) {
		buf_json_bare(b, p->id.p, p->id.len);
	} else {
		buf_str(b, prefix);
		buf_json_bare(b, answer_id, strlen(answer_id));
		buf_printf(b, "_%u", a->calls);
	}
	buf_str(b, "\"");
}
