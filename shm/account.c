/*
 * Accounts and keys: append-only arrays and open-addressed indexes over them.  The keeper
 * inserts; any process looks up without a lock.
 *
 * An index entry is hash bits << 32 | number + 1, 0 for none.  Inserting is: the entry's
 * contents, its index entry, the count.  The count is what makes it exist: a keeper killed
 * before that leaves an index entry whose number is not below the count; look-ups pass over it,
 * and the next insert takes the number again.
 */
#include "shm/account.h"

#include <errno.h>
#include <string.h>

#include "shm/fault.h"
#include "shm/ledger.h"

struct index {
	_Atomic uint64_t *entry;
	uint32_t mask;
	const _Atomic uint32_t *published;
};

static struct index
account_index(const struct region *region)
{
	struct region_header *h = region->h;

	return (struct index){
	    .entry = (_Atomic uint64_t *)(void *)(region->base + h->account_index_at),
	    .mask = h->account_index_len - 1,
	    .published = &h->accounts,
	};
}

static struct index
key_index(const struct region *region)
{
	struct region_header *h = region->h;

	return (struct index){
	    .entry = (_Atomic uint64_t *)(void *)(region->base + h->key_index_at),
	    .mask = h->key_index_len - 1,
	    .published = &h->keys,
	};
}

static uint64_t
mix(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/*
 * Multiply and fold, 16 bytes at a time.  Ids come from an operator, who may let users choose
 * them: the random seed is there so that nobody can prepare ids that collide.
 */
static uint64_t
hash_id(uint64_t seed, const char *id, size_t len)
{
	uint64_t hash = seed ^ mix(len ^ UINT64_C(0xa0761d6478bd642f), UINT64_C(0xe7037ed1a0b428db));
	uint64_t word[2];

	while (len > 0) {
		size_t n = len < sizeof word ? len : sizeof word;

		word[0] = word[1] = 0;
		memcpy(word, id, n);
		hash = mix(word[0] ^ UINT64_C(0x8ebc6af09c88c6e3) ^ hash,
		    word[1] ^ UINT64_C(0x589965cc75374cc3) ^ seed);
		id += n;
		len -= n;
	}
	return mix(hash ^ UINT64_C(0x1d8e4e27c47d124f), seed | 1);
}

static uint64_t
index_word(uint64_t hash, uint32_t number)
{
	return (hash & ~UINT64_C(0xffffffff)) | (number + 1u);
}

/* Does entry `number` have this hash, and is it a finished one?  *number is set if the hash is. */
static bool
index_match(const struct index *ix, uint64_t word, uint64_t hash, uint32_t *number)
{
	if ((word ^ hash) >> 32 != 0)
		return false;
	*number = (uint32_t)word - 1;
	/* Acquire, pairs with index_add: contents come with the count. */
	return *number < atomic_load_explicit(ix->published, memory_order_acquire);
}

/* Keeper: publish entry `number`, whose contents are written. */
static void
index_add(const struct index *ix, _Atomic uint32_t *published, uint64_t hash, uint32_t number)
{
	uint32_t at = (uint32_t)hash & ix->mask;
	uint64_t want = index_word(hash, number), word;

	/* Relaxed: nobody else writes the index.  At most half of it is ever used, plus an
	 * entry for each killed keeper. */
	while ((word = atomic_load_explicit(&ix->entry[at], memory_order_relaxed)) != 0 &&
	    word != want)
		at = (at + 1) & ix->mask;
	/* Release, pairs with the acquire in the look-ups. */
	atomic_store_explicit(&ix->entry[at], want, memory_order_release);
	/* Release, pairs with index_match and account_at's callers: from here on it exists. */
	atomic_store_explicit(published, number + 1, memory_order_release);
}

bool
account_id_ok(const char *id, size_t len)
{
	if (len < 1 || len > ACCOUNT_ID_MAX)
		return false;
	for (size_t i = 0; i < len; i++) {
		char c = id[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
			c == '.' || c == '_' || c == ':' || c == '@' || c == '-'))
			return false;
	}
	return true;
}

struct account *
account_at(const struct region *region, uint32_t number)
{
	return (struct account *)(void *)(region->base + region->h->accounts_at) + number;
}

struct account *
account_find(const struct region *region, const char *id, size_t len)
{
	struct index ix = account_index(region);
	uint64_t hash, word;
	uint32_t at, number;

	if (len < 1 || len > ACCOUNT_ID_MAX)
		return NULL;
	hash = hash_id(region->h->hash_seed, id, len);
	/* Acquire, pairs with index_add. */
	for (at = (uint32_t)hash & ix.mask;
	     (word = atomic_load_explicit(&ix.entry[at], memory_order_acquire)) != 0;
	     at = (at + 1) & ix.mask) {
		struct account *a;

		if (!index_match(&ix, word, hash, &number))
			continue;
		a = account_at(region, number);
		if (a->id_len == len && memcmp(a->id, id, len) == 0)
			return a;
	}
	return NULL;
}

struct account *
account_insert(struct region *region, const char *id, size_t len,
    const struct account_books *books, int64_t available)
{
	struct region_header *h = region->h;
	struct index ix = account_index(region);
	uint32_t number = atomic_load_explicit(&h->accounts, memory_order_relaxed); /* our own */
	struct account *a;

	if (!account_id_ok(id, len)) {
		errno = EINVAL;
		return NULL;
	}
	if (account_find(region, id, len) != NULL) {
		errno = EEXIST;
		return NULL;
	}
	if (region_grow_accounts(region, number + 1) < 0)
		return NULL;
	a = account_at(region, number);
	memset(a, 0, sizeof *a);
	a->word.available = available;
	a->number = number;
	a->id_len = (uint32_t)len;
	a->books[0] = *books;
	memcpy(a->id, id, len);
	index_add(&ix, &h->accounts, hash_id(h->hash_seed, id, len), number);
	return a;
}

/*
 * Two copies and a generation that says which one is valid: the keeper writes the other one, so
 * a keeper killed half-way leaves the valid one whole.  A reader begins again if the generation
 * moved, for then the copy it read may have been under the next write.
 */
void
account_publish(struct account *a, const struct account_books *books)
{
	/* Relaxed: the keeper is the only writer. */
	uint64_t gen = atomic_load_explicit(&a->books_gen, memory_order_relaxed) + 1;
	struct account_books *b = &a->books[gen & 1];

	/* Release each: they must not become visible before the former generation, which tells
	 * readers of this copy to begin again.  (A release fence would do the same in one;
	 * thread sanitizers do not see fences.) */
	__atomic_store_n(&b->balance, books->balance, __ATOMIC_RELEASE);
	__atomic_store_n(&b->held, books->held, __ATOMIC_RELEASE);
	__atomic_store_n(&b->overdraft, books->overdraft, __ATOMIC_RELEASE);
	FAULT("keeper.books");
	/* Release, pairs with account_books: the copy is whole. */
	atomic_store_explicit(&a->books_gen, gen, memory_order_release);
}

void
account_books(const struct account *a, struct account_books *out)
{
	uint64_t gen;

	do {
		const struct account_books *b;

		/* Acquire, pairs with account_publish. */
		gen = atomic_load_explicit(&a->books_gen, memory_order_acquire);
		b = &a->books[gen & 1];
		/* Acquire each: the second look at the generation stays behind them. */
		out->balance = __atomic_load_n(&b->balance, __ATOMIC_ACQUIRE);
		out->held = __atomic_load_n(&b->held, __ATOMIC_ACQUIRE);
		out->overdraft = __atomic_load_n(&b->overdraft, __ATOMIC_ACQUIRE);
	} while (atomic_load_explicit(&a->books_gen, memory_order_relaxed) != gen);
}

int64_t
account_available(const struct account *a)
{
	/* Relaxed: one word of a value that may change at any time anyway. */
	return __atomic_load_n(&a->word.available, __ATOMIC_RELAXED);
}

struct key_entry *
key_at(const struct region *region, uint32_t index)
{
	return (struct key_entry *)(void *)(region->base + region->h->keys_at) + index;
}

uint32_t
key_number(const struct region *region, const struct key_entry *key)
{
	return (uint32_t)(key - key_at(region, 0));
}

/* Equal?  In a time that does not depend on where they differ. */
static bool
same_hash(const uint8_t a[static 32], const uint8_t b[static 32])
{
	unsigned int differ = 0;

	for (int i = 0; i < 32; i++)
		differ |= (unsigned int)(a[i] ^ b[i]);
	return differ == 0;
}

/* FNV-1a: the same in every process, and of every start. */
uint64_t
key_model(const char *name, size_t len)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (uint8_t)name[i]) * UINT64_C(0x100000001b3);
	return hash;
}

/* A key's hash is an HMAC under a secret: as good a keyed hash as any. */
static uint64_t
key_hash(const uint8_t hash[static 32])
{
	uint64_t first;

	memcpy(&first, hash, sizeof first);
	return first;
}

struct key_entry *
key_find(const struct region *region, const uint8_t hash[static 32])
{
	struct index ix = key_index(region);
	uint64_t first = key_hash(hash), word;
	uint32_t at, number;

	/* Acquire, pairs with index_add. */
	for (at = (uint32_t)first & ix.mask;
	     (word = atomic_load_explicit(&ix.entry[at], memory_order_acquire)) != 0;
	     at = (at + 1) & ix.mask) {
		if (index_match(&ix, word, first, &number) &&
		    same_hash(key_at(region, number)->hash, hash))
			return key_at(region, number);
	}
	return NULL;
}

struct key_entry *
key_find_id(const struct region *region, uint64_t hash, uint64_t key_id)
{
	struct index ix = key_index(region);
	uint64_t word;
	uint32_t at, number;

	/* Acquire, pairs with index_add. */
	for (at = (uint32_t)hash & ix.mask;
	     (word = atomic_load_explicit(&ix.entry[at], memory_order_acquire)) != 0;
	     at = (at + 1) & ix.mask) {
		if (index_match(&ix, word, hash, &number) && key_at(region, number)->key_id == key_id)
			return key_at(region, number);
	}
	return NULL;
}

struct key_entry *
key_insert(struct region *region, const struct key_entry *key)
{
	struct region_header *h = region->h;
	struct index ix = key_index(region);
	uint32_t number = atomic_load_explicit(&h->keys, memory_order_relaxed); /* our own */
	struct key_entry *k;

	if (key_find(region, key->hash) != NULL) {
		errno = EEXIST;
		return NULL;
	}
	if (region_grow_keys(region, number + 1) < 0)
		return NULL;
	k = key_at(region, number);
	memcpy(k, key, sizeof *k);
	index_add(&ix, &h->keys, key_hash(key->hash), number);
	return k;
}
