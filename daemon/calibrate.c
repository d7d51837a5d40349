/*
 * Calibration.  Master makes the mapping, workers write it.
 *
 * A model's word is changed by compare-and-swap without retry: who loses the race loses one sample
 * of an average.  Relaxed throughout: nothing else is published by it.
 */
#include "daemon/calibrate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x3142494c41434c54) /* "TLCALIB1" */
#define ONE 4096                           /* of the ratios in a word */
/* A ratio beyond these is no tokenizer's: reasoning that was not streamed, or a provider's slip. */
#define RATIO_MIN (ONE / 4)
#define RATIO_MAX (4 * ONE)
#define WEIGHT 16

/* A word: mean 24 bits, mean deviation 24, samples 15, whether it was told 1. */
struct learnt {
	uint32_t mean, deviation, samples;
	bool told;
};

struct calibration_slot {
	_Atomic uint64_t key; /* hash of the model's names; 0: free.  Written by the master */
	_Atomic uint64_t word;
};

struct calibration_file {
	uint64_t magic;
	uint64_t slots;
	struct calibration_slot slot[2 * CONFIG_MODELS_MAX];
};

static struct calibration_file *mapped;

static struct learnt
unpack(uint64_t w)
{
	return (struct learnt){.mean = w & 0xffffff,
	    .deviation = w >> 24 & 0xffffff,
	    .samples = w >> 48 & 0x7fff,
	    .told = w >> 63};
}

static uint64_t
pack(struct learnt l)
{
	return l.mean | (uint64_t)l.deviation << 24 | (uint64_t)l.samples << 48 |
	       (uint64_t)l.told << 63;
}

/* FNV-1a over all that makes a model's count: what was learnt of another is not its. */
static uint64_t
key_of(const struct config_model *m)
{
	const char *const text[] = {m->name, m->upstream, tokenizer_name(m->tokenizer)};
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < sizeof text / sizeof *text; i++) {
		size_t n = strlen(text[i]) + 1; /* with its end, so that "ab","c" is not "a","bc" */

		for (size_t k = 0; k < n; k++)
			h = (h ^ (unsigned char)text[i][k]) * UINT64_C(0x100000001b3);
	}
	return h == 0 ? 1 : h;
}

static bool
wanted(const struct config *c, uint64_t key)
{
	for (int i = 0; i < c->model_count; i++)
		if (c->model[i].name != NULL && key_of(&c->model[i]) == key)
			return true;
	return false;
}

static struct calibration_slot *
owned(struct calibration_file *f, uint64_t key)
{
	for (size_t i = 0; i < f->slots; i++)
		if (atomic_load_explicit(&f->slot[i].key, memory_order_relaxed) == key)
			return &f->slot[i];
	return NULL;
}

/* The model's own place; with a config also a free one, or that of a model which is no more. */
static struct calibration_slot *
place(struct calibration_file *f, const struct config *c, uint64_t key)
{
	struct calibration_slot *found;

	if ((found = owned(f, key)) != NULL || c == NULL)
		return found;
	found = owned(f, 0);
	for (size_t i = 0; i < f->slots && found == NULL; i++)
		if (!wanted(c, atomic_load_explicit(&f->slot[i].key, memory_order_relaxed)))
			found = &f->slot[i];
	if (found != NULL) { /* always: there are more than models */
		/* Relaxed: who looks it up later was told of the config after this. */
		atomic_store_explicit(&found->key, key, memory_order_relaxed);
		atomic_store_explicit(&found->word, 0, memory_order_relaxed);
	}
	return found;
}

int
calibrate_open(struct config *c, const char *path, uid_t owner)
{
	struct calibration_file *f = MAP_FAILED;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600), error;

	/* Allocated, so that a full disk is an error here and not a signal later. */
	if (fd >= 0 && (geteuid() != 0 || fchown(fd, owner, (gid_t)-1) == 0) &&
	    ftruncate(fd, sizeof *f) == 0 && (errno = posix_fallocate(fd, 0, sizeof *f)) == 0)
		f = mmap(NULL, sizeof *f, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	error = errno;
	if (fd >= 0)
		close(fd);
	errno = error;
	if (f == MAP_FAILED)
		return -1;
	if (f->magic != MAGIC || f->slots != sizeof f->slot / sizeof *f->slot) {
		memset(f, 0, sizeof *f);
		f->magic = MAGIC;
		f->slots = sizeof f->slot / sizeof *f->slot;
	}
	mapped = f;
	calibrate_config(c, true);
	for (int i = 0; i < c->model_count; i++) {
		_Atomic uint64_t *word = c->model[i].learnt;
		struct learnt l;

		if (word == NULL)
			continue;
		l = unpack(atomic_load_explicit(word, memory_order_relaxed));
		l.told = false;
		atomic_store_explicit(word, pack(l), memory_order_relaxed);
	}
	return 0;
}

void
calibrate_config(struct config *c, bool make)
{
	for (int i = 0; i < c->model_count && mapped != NULL; i++) {
		struct calibration_slot *s = c->model[i].name == NULL
		    ? NULL
		    : place(mapped, make ? c : NULL, key_of(&c->model[i]));

		c->model[i].learnt = s == NULL ? NULL : &s->word;
	}
}

static struct learnt
known(const struct config_model *m)
{
	struct learnt nothing = {0};

	if (m->learnt == NULL)
		return nothing;
	return unpack(atomic_load_explicit(m->learnt, memory_order_relaxed));
}

uint32_t
calibrate_mean(const struct config_model *m)
{
	return known(m).mean * TOKENS_SCALE / ONE;
}

uint32_t
calibrate_scale(const struct config_model *m)
{
	uint32_t own = tokenizer_scale(m->tokenizer), scale;
	struct learnt l;

	if (tokenizer_exact(m->tokenizer))
		return own;
	l = known(m);
	if (l.samples == 0)
		return own;
	scale = (uint32_t)((uint64_t)(l.mean + 2 * l.deviation) * TOKENS_SCALE * 21 / (ONE * 20));
	if (l.samples < CALIBRATE_SAMPLES && scale < own)
		scale = own;
	return scale < CALIBRATE_MIN   ? CALIBRATE_MIN
	       : scale > CALIBRATE_MAX ? CALIBRATE_MAX
	                               : scale;
}

/* value + (sample - value) / weight, rounded away from zero so that it gets there. */
static uint32_t
towards(uint32_t value, uint32_t sample, uint32_t weight)
{
	if (sample >= value)
		return value + (sample - value + weight - 1) / weight;
	return value - (value - sample + weight - 1) / weight;
}

bool
calibrate_learn(const struct config_model *m, uint32_t ours, uint32_t theirs)
{
	uint64_t ratio, old;
	uint32_t away, weight;
	struct learnt l;
	bool tell;

	if (m->learnt == NULL || ours < CALIBRATE_TOKENS_MIN)
		return false;
	ratio = (uint64_t)theirs * ONE / ours;
	if (ratio < RATIO_MIN || ratio > RATIO_MAX)
		return false;
	old = atomic_load_explicit(m->learnt, memory_order_relaxed);
	l = unpack(old);
	weight = l.samples + 1 < WEIGHT ? l.samples + 1 : WEIGHT;
	l.mean = towards(l.mean, (uint32_t)ratio, weight);
	away = ratio > l.mean ? (uint32_t)ratio - l.mean : l.mean - (uint32_t)ratio;
	l.deviation = towards(l.deviation, away, weight);
	if (l.samples < 0x7fff)
		l.samples++;
	away = l.mean > ONE ? l.mean - ONE : ONE - l.mean;
	tell = tokenizer_exact(m->tokenizer) && !l.told && l.samples >= CALIBRATE_DRIFT_SAMPLES &&
	       away * 100 > ONE * CALIBRATE_DRIFT_PERCENT;
	l.told |= tell;
	return atomic_compare_exchange_strong_explicit(
	           m->learnt, &old, pack(l), memory_order_relaxed, memory_order_relaxed) &&
	       tell;
}
