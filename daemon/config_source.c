/*
 * What a config is made of, read from where it is or from a record of a former reading.
 *
 * A record is a row of heads, each with its name and its bytes behind it.  It is made and read by
 * processes of one program on one machine, a moment apart, so it has no format to speak of.
 */
#include "daemon/config_source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum kind { SOURCE_FILE, SOURCE_VARIABLE, SOURCE_TOKENIZER };

struct head {
	uint32_t kind;
	int32_t error; /* errno; 0: the bytes are there */
	uint32_t name_len, len;
};

static int record_fd = -1;
static bool record_failed;
static const char *replayed;
static size_t replayed_len;
static char *variable; /* the last one that was read from a record */
static uint64_t hash;

bool
config_source_record(int fd)
{
	bool good = !record_failed;

	record_fd = fd;
	record_failed = false;
	return good;
}

void
config_source_replay(const char *record, size_t len)
{
	replayed = record;
	replayed_len = len;
	if (variable != NULL)
		explicit_bzero(variable, strlen(variable));
	free(variable);
	variable = NULL;
}

bool
config_source_replayed(void)
{
	return replayed != NULL;
}

uint64_t
config_source_mix(uint64_t h, const void *bytes, size_t len)
{
	const unsigned char *p = bytes;

	if (h == 0)
		h = UINT64_C(0xcbf29ce484222325);
	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	return h == 0 ? 1 : h;
}

uint64_t
config_source_hash(void)
{
	uint64_t h = hash;

	hash = 0;
	return h;
}

static void
put(const void *bytes, size_t len)
{
	const char *p = bytes;

	while (len > 0 && !record_failed) {
		ssize_t n = write(record_fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			record_failed = true;
			return;
		}
		p += n;
		len -= (size_t)n;
	}
}

static void
note(enum kind kind, const char *name, int error, const char *bytes, size_t len)
{
	struct head h = {(uint32_t)kind, error, (uint32_t)strlen(name), (uint32_t)len};

	if (record_fd < 0)
		return;
	put(&h, sizeof h);
	put(name, h.name_len);
	put(bytes, len);
}

/* What the record has of this name; NULL if it has nothing, which a record of ours never lacks. */
static const char *
find(enum kind kind, const char *name, struct head *h)
{
	size_t at = 0;

	while (replayed_len - at >= sizeof *h) {
		const char *p = replayed + at + sizeof *h;

		memcpy(h, replayed + at, sizeof *h);
		at += sizeof *h;
		if (h->name_len > replayed_len - at || h->len > replayed_len - at - h->name_len)
			break;
		if (h->kind == (uint32_t)kind && h->name_len == strlen(name) &&
		    memcmp(p, name, h->name_len) == 0)
			return p + h->name_len;
		at += (size_t)h->name_len + h->len;
	}
	*h = (struct head){.error = ENOENT};
	return NULL;
}

/* O_NONBLOCK: a FIFO that nobody writes to must not hold us up. */
static ssize_t
read_file(const char *path, char *to, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), error;
	size_t len = 0;
	ssize_t n = 1;

	if (fd < 0)
		return -1;
	while (len < size && n > 0) {
		n = read(fd, to + len, size - len);
		if (n > 0)
			len += (size_t)n;
		else if (n < 0 && errno == EINTR)
			n = 1;
	}
	error = errno;
	close(fd);
	errno = error;
	return n < 0 ? -1 : (ssize_t)len;
}

ssize_t
config_source_file(const char *path, char *to, size_t size)
{
	ssize_t n;

	if (replayed != NULL) {
		struct head h;
		const char *bytes = find(SOURCE_FILE, path, &h);

		if (h.error == 0 && bytes != NULL) {
			n = h.len < size ? (ssize_t)h.len : (ssize_t)size;
			memcpy(to, bytes, (size_t)n);
		} else {
			errno = h.error;
			n = -1;
		}
	} else {
		int error;

		n = read_file(path, to, size);
		error = n < 0 ? errno : 0;
		note(SOURCE_FILE, path, error, to, n < 0 ? 0 : (size_t)n);
		errno = error;
	}
	if (n >= 0) {
		int error = errno;

		hash = config_source_mix(hash, to, (size_t)n);
		errno = error;
	}
	return n;
}

const char *
config_source_variable(const char *name)
{
	struct head h;
	const char *value;

	if (replayed == NULL) {
		value = getenv(name);
		note(SOURCE_VARIABLE, name, value == NULL ? ENOENT : 0, value,
		    value == NULL ? 0 : strlen(value));
		return value;
	}
	value = find(SOURCE_VARIABLE, name, &h);
	if (variable != NULL)
		explicit_bzero(variable, strlen(variable));
	free(variable);
	variable = value == NULL || h.error != 0 ? NULL : strndup(value, h.len);
	return variable;
}

void
config_source_note_tokenizer(const char *name)
{
	note(SOURCE_TOKENIZER, name, 0, NULL, 0);
}

bool
config_source_noted_tokenizer(const char *name)
{
	struct head h;

	return find(SOURCE_TOKENIZER, name, &h) != NULL;
}

bool
config_source_tokenizer(size_t *at, char *name, size_t size)
{
	struct head h;

	while (replayed_len - *at >= sizeof h) {
		const char *p = replayed + *at + sizeof h;

		memcpy(&h, replayed + *at, sizeof h);
		if (h.name_len > replayed_len || h.len > replayed_len ||
		    sizeof h + h.name_len + h.len > replayed_len - *at)
			return false;
		*at += sizeof h + h.name_len + h.len;
		if (h.kind != SOURCE_TOKENIZER || h.name_len >= size)
			continue;
		memcpy(name, p, h.name_len);
		name[h.name_len] = '\0';
		return true;
	}
	return false;
}
