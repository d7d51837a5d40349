/*
 * A request's bytes are gone when its handler returns; whoever has to wait first keeps them here.
 * Pure.
 */
#include "daemon/http_copy.h"

static void
move_span(struct span *s, struct buf *copy)
{
	/* Reserved: nothing moves any more. */
	const char *p = copy->data + copy->len;

	if (s->p == NULL)
		return;
	buf_add(copy, s->p, s->len);
	s->p = p;
}

bool
http_copy(struct http_request *h, struct span *body, struct buf *copy)
{
	size_t n = h->method_text.len + h->target.len + h->path.len + h->query.len + body->len + 1;

	for (int i = 0; i < h->headers; i++)
		n += h->header[i].name.len + h->header[i].value.len;
	if (!buf_reserve(copy, n))
		return false;
	move_span(&h->method_text, copy);
	move_span(&h->target, copy);
	move_span(&h->path, copy);
	move_span(&h->query, copy);
	for (int i = 0; i < h->headers; i++) {
		move_span(&h->header[i].name, copy);
		move_span(&h->header[i].value, copy);
	}
	move_span(body, copy);
	buf_add(copy, "", 1);
	return true;
}
