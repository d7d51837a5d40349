/*
 * Writing and reading a checkpoint's bytes.  Written by the keeper's helper (compact_make.c), read
 * by the keeper at start, by that helper, and by the admin process for an audit.
 */
#include "daemon/checkpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/books_rows.h"

#define WRITE_BYTES (256u << 10)

/* No row is longer: account ids and labels have 16 bits at most. */
#define ROW_MAX (1u << 17)

/* Writing. */

static int
flush(int fd, struct buf *b, size_t at_least)
{
	size_t done = 0;

	if (b->failed) {
		errno = ENOMEM;
		return -1;
	}
	if (b->len < at_least)
		return 0;
	while (done < b->len) {
		ssize_t n = write(fd, b->data + done, b->len - done);

		if (n < 0 && errno != EINTR)
			return -1;
		done += n > 0 ? (size_t)n : 0;
	}
	b->len = 0;
	return 0;
}

static void
add_row(struct buf *b, const struct books_row *row, enum books_table table)
{
	struct checkpoint_row head = {.table = (uint8_t)table,
	    .key_len = (uint8_t)row->key_len,
	    .len = (uint32_t)(row->fixed_len + row->text_len)};

	buf_add(b, &head, sizeof head);
	buf_add(b, row->key, row->key_len);
	buf_add(b, &row->fixed, row->fixed_len);
	buf_add(b, row->text, row->text_len);
}

int
checkpoint_write(int fd, const struct books *books, const struct checkpoint_head *head,
    const struct checkpoint_pasts *pasts)
{
	struct checkpoint_row past = {.table = CHECKPOINT_PAST, .len = sizeof *pasts->past};
	struct checkpoint_row end = {.table = CHECKPOINT_END};
	struct buf b = {0};
	struct books_row row;
	int result = 0;

	buf_add(&b, head, sizeof *head);
	for (int t = 0; t < ROWS_TABLES; t++) {
		enum books_table table = (enum books_table)t;

		for (uint32_t i = 0; i < books_rows(books, table) && result == 0; i++) {
			books_row_make(books, table, i, &row);
			add_row(&b, &row, table);
			result = flush(fd, &b, WRITE_BYTES);
		}
	}
	for (uint32_t i = 0; i < pasts->count && result == 0; i++) {
		buf_add(&b, &past, sizeof past);
		buf_add(&b, &pasts->past[i], sizeof pasts->past[i]);
		result = flush(fd, &b, WRITE_BYTES);
	}
	buf_add(&b, &end, sizeof end);
	if (result == 0)
		result = flush(fd, &b, 0);
	buf_free(&b);
	return result;
}

/* Reading. */

struct checkpoint_load {
	struct journal_cursor *cursor;
	struct books *books;
	struct journal_chain *hash;
	struct buf rest; /* bytes of a row that is not whole yet */
	uint64_t bytes;
	uint32_t piece;
	bool headed, ended, former;
	struct checkpoint_pasts pasts;
};

struct checkpoint_load *
checkpoint_load_new(struct journal_cursor *cursor, struct books *books)
{
	struct checkpoint_load *l = calloc(1, sizeof *l);

	if (l == NULL)
		return NULL;
	l->cursor = cursor;
	l->books = books;
	l->hash = journal_chain_new();
	if (l->hash == NULL) {
		free(l);
		return NULL;
	}
	journal_chain_start(l->hash);
	return l;
}

void
checkpoint_load_free(struct checkpoint_load *l)
{
	if (l == NULL)
		return;
	journal_chain_free(l->hash);
	buf_free(&l->rest);
	free(l->pasts.past);
	free(l);
}

const struct checkpoint_pasts *
checkpoint_load_pasts(const struct checkpoint_load *l)
{
	return &l->pasts;
}

static const char *
take_head(struct checkpoint_load *l, const char *bytes)
{
	const struct journal_base *base = journal_cursor_base(l->cursor);
	struct checkpoint_head head;

	memcpy(&head, bytes, sizeof head);
	if (head.format < 1 || head.format > CHECKPOINT_FORMAT)
		return "it is of another version";
	l->former = head.format < CHECKPOINT_SIX_PRICES;
	if (base->pad != 0 || head.sequence != base->sequence || head.time_us != base->time_us ||
	    memcmp(head.link, base->link, sizeof head.link) != 0)
		return "its head is another one's";
	l->headed = true;
	return NULL;
}

static const char *
take_past(struct checkpoint_load *l, const char *value, size_t len)
{
	struct checkpoint_past *more;

	more = realloc(l->pasts.past, (l->pasts.count + 1) * sizeof *more);
	if (more == NULL)
		return "out of memory";
	l->pasts.past = more;
	if (len != sizeof *more)
		return "a row of it is malformed";
	memcpy(&more[l->pasts.count++], value, sizeof *more);
	return NULL;
}

/* One row from the front of `rest`; *used is 0 if it is not whole yet. */
static const char *
take_row(struct checkpoint_load *l, const char *bytes, size_t len, size_t *used)
{
	struct checkpoint_row row;
	const char *key = bytes + sizeof row;

	*used = 0;
	if (len < sizeof row)
		return NULL;
	memcpy(&row, bytes, sizeof row);
	if (row.len > ROW_MAX || l->ended)
		return "a row of it is malformed";
	if (len < sizeof row + row.key_len + row.len)
		return NULL;
	*used = sizeof row + row.key_len + row.len;
	if (row.table == CHECKPOINT_END)
		l->ended = true;
	else if (row.table == CHECKPOINT_PAST)
		return take_past(l, key + row.key_len, row.len);
	else if ((l->former ? books_row_load_former : books_row_load)(l->books,
	             (enum books_table)row.table, key, row.key_len, key + row.key_len, row.len) < 0)
		return "a row of it is malformed";
	return NULL;
}

static const char *
take_rows(struct checkpoint_load *l)
{
	const char *why = NULL;
	size_t at = 0, used;

	if (!l->headed && l->rest.len >= sizeof(struct checkpoint_head)) {
		why = take_head(l, l->rest.data);
		at = sizeof(struct checkpoint_head);
	}
	if (!l->headed)
		return why;
	do {
		why = take_row(l, l->rest.data + at, l->rest.len - at, &used);
		at += used;
	} while (why == NULL && used > 0);
	buf_consume(&l->rest, at);
	return why;
}

/* All pieces were there: are they what the journal says? */
static const char *
check_end(struct checkpoint_load *l)
{
	const struct journal_base *base = journal_cursor_base(l->cursor);
	struct journal_checkpoint bound;
	uint8_t hash[JOURNAL_LINK_LEN];
	struct journal_entry e;

	journal_chain_end(l->hash, hash);
	if (l->bytes != base->bytes || memcmp(hash, base->hash, sizeof hash) != 0)
		return "it is not what its hash says: a byte of it was changed, or a piece is "
		       "missing";
	if (!l->ended || l->rest.len != 0)
		return "it has no end";
	if (journal_cursor_at(l->cursor, base->record, &e) != 1 ||
	    e.record.type != JOURNAL_CHECKPOINT || e.payload_len != sizeof bound)
		return "there is no record that binds it";
	memcpy(&bound, e.payload, sizeof bound);
	if (bound.sequence != base->sequence ||
	    memcmp(bound.link, base->link, sizeof bound.link) != 0 ||
	    memcmp(bound.hash, base->hash, sizeof bound.hash) != 0)
		return "the record that binds it is about another one";
	return NULL;
}

int
checkpoint_load_step(struct checkpoint_load *l, uint32_t max_pieces, const char **why)
{
	*why = NULL;
	if (journal_cursor_base(l->cursor)->sequence == 0)
		return 0;
	for (; max_pieces > 0 && *why == NULL; max_pieces--) {
		const void *bytes;
		size_t len;
		int more = journal_cursor_piece(l->cursor, l->piece, &bytes, &len);

		if (more < 0)
			*why = "it cannot be read";
		else if (more == 0) {
			*why = check_end(l);
			return *why == NULL ? 0 : -1;
		} else {
			l->piece++;
			l->bytes += len;
			journal_chain_add(l->hash, bytes, len);
			buf_add(&l->rest, bytes, len);
			*why = l->rest.failed ? "out of memory" : take_rows(l);
		}
	}
	return *why == NULL ? 1 : -1;
}
