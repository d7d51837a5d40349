/*
 * Refs of top-ups and adjustments, and keys of requests: what a repetition is known by, for a day.
 * Keeper (and admin, for an audit).
 *
 * The table is in the order of the records, and so of time.  What is over is no longer found;
 * its memory is given back in large pieces, so that a day's refs are what it holds, twice over at
 * the most.
 */
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/books_private.h"

/* A row is kept a little longer than anybody may ask for it. */
#define OVER_US (BOOKS_REF_KEPT_US + UINT64_C(3600) * 1000000)
#define FORGET_MIN 1024

/* A ref comes as 16-bit length and bytes, so this is enough for any. */
#define REF_MAX UINT16_MAX

static void
make_id(uint32_t account, const char *kind, const void *ref, size_t len, uint8_t id[static 16])
{
	unsigned char text[sizeof account + 4 + REF_MAX], digest[SHA256_DIGEST_LENGTH];
	size_t n = strlen(kind);

	memcpy(text, &account, sizeof account);
	memcpy(text + sizeof account, kind, n);
	memcpy(text + sizeof account + n, ref, len);
	SHA256(text, sizeof account + n + len, digest);
	memcpy(id, digest, 16);
}

void
books_ref_id(uint32_t account, const void *ref, size_t len, uint8_t id[static 16])
{
	make_id(account, "", ref, len, id);
}

bool
books_ref_of(const struct journal_record *r, const void *payload, const void **ref, size_t *len)
{
	struct journal_ref head;

	*ref = NULL;
	*len = 0;
	if (r->payload_len == 0)
		return true;
	if (r->payload_len < sizeof head)
		return false;
	memcpy(&head, payload, sizeof head);
	if (sizeof head + head.ref_len + head.reason_len > r->payload_len)
		return false;
	*ref = (const char *)payload + sizeof head;
	*len = head.ref_len;
	return true;
}

bool
books_keyed_of(const struct journal_record *r, const void *payload, struct journal_keyed *keyed,
    uint8_t id[static 16])
{
	struct journal_reserve head;
	size_t at = 0;

	if (r->type == JOURNAL_RESERVE) {
		if (r->payload_len < sizeof head)
			return false;
		memcpy(&head, payload, sizeof head);
		if (head.keyed == 0)
			return false;
		at = sizeof head + head.model_len;
	}
	if (at + sizeof *keyed > r->payload_len)
		return false;
	memcpy(keyed, (const char *)payload + at, sizeof *keyed);
	/* No ref can be mistaken for it: admin takes none with a control byte in it. */
	make_id(r->account, "\x01key", keyed->key, sizeof keyed->key, id);
	return true;
}

bool
books_makes_ref(const struct journal_record *r, const void *payload)
{
	struct journal_keyed keyed;
	const void *ref;
	uint8_t id[16];
	size_t len;

	if (r->type == JOURNAL_RESERVE)
		return books_keyed_of(r, payload, &keyed, id);
	return (r->type == JOURNAL_TOPUP || r->type == JOURNAL_ADJUST) &&
	    books_ref_of(r, payload, &ref, &len) && len > 0;
}

void
books_add_ref(struct books *b, const struct books_ref *ref)
{
	memcpy(books_room(&b->refs, 1, sizeof *ref), ref, sizeof *ref);
	books_lookup_add(&b->by_ref, books_hash(ref->id, sizeof ref->id),
	    (uint32_t)b->refs.count++);
}

const struct books_ref *
books_ref_find(const struct books *b, const uint8_t id[static 16], uint64_t time_us)
{
	uint64_t hash = books_hash(id, 16);
	const struct books_ref *ref;
	size_t at = SIZE_MAX;
	uint32_t i;

	/* One that is over may have a namesake that is not. */
	while ((i = books_lookup_next(&b->by_ref, hash, &at)) != JOURNAL_NONE) {
		ref = books_ref(b, i);
		if (memcmp(ref->id, id, 16) == 0 && ref->time_us + BOOKS_REF_KEPT_US >= time_us)
			return ref;
	}
	return NULL;
}

int
books_load_ref(struct books *b, const struct books_ref *row)
{
	books_add_ref(b, row);
	b->refs_from = books_refs(b);
	return 0;
}

static void
look_up_again(struct books *b)
{
	free(b->by_ref.entry);
	b->by_ref = (struct lookup){0};
	for (uint32_t i = 0; i < books_refs(b); i++)
		books_lookup_add(&b->by_ref, books_hash(books_ref(b, i)->id, 16), i);
}

static int
by_sequence(const void *x, const void *y)
{
	const struct books_ref *a = x, *b = y;

	return a->sequence < b->sequence ? -1 : a->sequence > b->sequence;
}

void
books_refs_sort(struct books *b)
{
	if (books_refs(b) == 0)
		return;
	qsort(b->refs.data, b->refs.count, sizeof(struct books_ref), by_sequence);
	look_up_again(b);
}

uint32_t
books_refs_over(const struct books *b, uint64_t now_us, uint32_t max, uint32_t *from)
{
	uint32_t n = 0;

	*from = b->refs_over;
	while (n < max && *from + n < books_refs(b) &&
	    books_ref(b, *from + n)->time_us + OVER_US < now_us)
		n++;
	return n;
}

uint32_t
books_refs_kept(const struct books *b)
{
	return books_refs(b) - b->refs_over;
}

void
books_refs_forget(struct books *b, uint32_t n)
{
	struct books_ref *ref = b->refs.data;

	b->refs_over += n;
	if (b->refs_over < FORGET_MIN || b->refs_over < b->refs.count / 2)
		return;
	b->refs.count -= b->refs_over;
	memmove(ref, ref + b->refs_over, b->refs.count * sizeof *ref);
	b->refs_from -= b->refs_over;
	b->refs_over = 0;
	look_up_again(b);
}
