/*
 * tollctl tokens | tokenizer build: what the daemon counts by, without the daemon.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "admin/tollctl.h"
#include "admin/vocab.h"
#include "daemon/tokenizer.h"
#include "daemon/tokenizer_table.h"
#include "daemon/utf8.h"

#define DEFAULT_TOKENIZER "o200k_base"
#define READ_SIZE 65536

static enum ctl_exit
complain(const char *name, const char *why)
{
	(void)fprintf(stderr, "tollctl: %s: %s\n", name, why);
	return CTL_USAGE;
}

/* Read on, until the end or an error; the buffer as it is then.  False with errno. */
static bool
read_on(int fd, char **data, size_t max, size_t *len)
{
	size_t cap = READ_SIZE;
	ssize_t n;

	for (*len = 0;;) {
		if (*len == cap) {
			char *more = cap > max ? NULL : realloc(*data, 2 * cap);

			if (more == NULL) {
				errno = cap > max ? EFBIG : ENOMEM;
				return false;
			}
			*data = more;
			cap *= 2;
		}
		n = read(fd, *data + *len, cap - *len);
		if (n == 0)
			return true;
		if (n < 0 && errno != EINTR)
			return false;
		*len += n > 0 ? (size_t)n : 0;
	}
}

/* The whole of a file, or of stdin for "-"; the caller frees it.  NULL with errno. */
static char *
read_all(const char *name, size_t max, size_t *len)
{
	int fd = strcmp(name, "-") == 0 ? STDIN_FILENO : open(name, O_RDONLY | O_CLOEXEC), error;
	char *data = fd < 0 ? NULL : malloc(READ_SIZE);

	if (data != NULL && !read_on(fd, &data, max, len)) {
		error = errno;
		free(data);
		data = NULL;
		errno = error;
	}
	error = errno;
	if (fd > STDIN_FILENO)
		close(fd);
	errno = error;
	return data;
}

/* In the order of the command's arguments. */
enum { TOKENIZER, PREFIXES };

/* Longest input: what a piece of it and its tokens can be counted in 32 bits. */
#define INPUT_MAX (UINT64_C(1) << 30)

/* What was read so far, and what comes of it. */
struct counted {
	struct token_stream ts;
	uint64_t bytes;
	bool json, prefixes; /* the count after each character: to be printed as it goes */
};

static void
count_some(struct counted *c, const char *text, size_t len, size_t bytes)
{
	const char *between = c->bytes == 0 ? "" : ",";

	(void)token_stream_append(&c->ts, text, len);
	c->bytes += bytes;
	if (!c->prefixes)
		return;
	if (c->json)
		(void)printf("%s[%" PRIu64 ",%u]", between, c->bytes, token_stream_now(&c->ts));
	else
		(void)printf("%" PRIu64 " %u\n", c->bytes, token_stream_now(&c->ts));
}

/*
 * Count text of which what is no UTF-8 becomes U+FFFD, as in the daemon.  Returns how many bytes
 * at its end begin a character that more could complete; they are left.
 */
static size_t
count_text(struct counted *c, const char *p, size_t len, bool end)
{
	size_t at = 0, good = 0, n, bad;

	for (; at + good < len; good += n) {
		n = utf8_char(p + at + good, len - at - good, &bad);
		if (n > 0 && !c->prefixes)
			continue;
		if (n == 0 && at + good + bad == len && !end && bad < 4 &&
		    (unsigned char)p[at + good] >= 0xc2 && (unsigned char)p[at + good] <= 0xf4)
			break;
		if (good > 0)
			count_some(c, p + at, good, good);
		if (n > 0)
			count_some(c, p + at + good, n, n);
		else
			count_some(c, "\xef\xbf\xbd", 3, bad);
		at += good + (n > 0 ? n : bad);
		good = n = 0;
	}
	if (good > 0)
		count_some(c, p + at, good, good);
	return len - at - good;
}

/* A file, or stdin for "-", as it is read: its length costs no memory.  False with errno. */
static bool
count_input(struct counted *c, const char *name)
{
	int fd = strcmp(name, "-") == 0 ? STDIN_FILENO : open(name, O_RDONLY | O_CLOEXEC), error;
	char data[READ_SIZE];
	size_t left = 0;
	ssize_t n = fd < 0 ? -1 : 1;
	struct stat st;

	/* Not after half a minute of counting. */
	if (fd > STDIN_FILENO && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    (uint64_t)st.st_size > INPUT_MAX) {
		errno = EFBIG;
		n = -1;
	}
	while (n > 0) {
		n = read(fd, data + left, sizeof data - left);
		if (n < 0 && errno == EINTR)
			n = 1;
		else if (n >= 0 && c->bytes + (uint64_t)n > INPUT_MAX) {
			errno = EFBIG;
			n = -1;
		} else if (n >= 0) {
			size_t len = left + (size_t)n;

			left = count_text(c, data, len, n == 0);
			memmove(data, data + len - left, left);
		}
	}
	error = errno;
	if (fd > STDIN_FILENO)
		close(fd);
	errno = error;
	return n == 0;
}

static enum ctl_exit
count_file(struct ctl *ctl, const struct tokenizer *t, const char *name, uint32_t *tokens)
{
	struct counted c = {.json = ctl->json, .prefixes = ctl->given[PREFIXES] != NULL};
	bool good;

	token_stream_init(&c.ts, t, tokenizer_scale(t));
	if (c.prefixes && c.json)
		(void)printf("{\"prefixes\":[");
	good = count_input(&c, name);
	*tokens = token_stream_now(&c.ts);
	if (c.prefixes && c.json && good)
		(void)printf("],\"tokens\":%u}\n", *tokens);
	token_stream_fini(&c.ts);
	return good ? CTL_DONE : complain(name, strerror(errno));
}

static void
print_counts(const struct ctl *ctl, const uint32_t *tokens)
{
	bool several = ctl->file_count > 1;

	for (int i = 0; i < ctl->file_count; i++) {
		if (ctl->json && several) {
			(void)printf("%s{\"file\":", i == 0 ? "[" : ",");
			print_json_text(ctl->files[i], strlen(ctl->files[i]));
			(void)printf(",\"tokens\":%u}", tokens[i]);
		} else if (ctl->json) {
			(void)printf("{\"tokens\":%u}", tokens[i]);
		} else {
			(void)printf("%u", tokens[i]);
			if (several) {
				(void)printf(" ");
				print_text(ctl->files[i], strlen(ctl->files[i]));
			}
			(void)printf("\n");
		}
	}
	if (ctl->json)
		(void)printf(several ? "]\n" : "\n");
}

static enum ctl_exit
tokens(struct ctl *ctl, const struct command *c)
{
	static char *const input[] = {(char *)(uintptr_t) "-"};
	const char *name =
	    ctl->given[TOKENIZER] != NULL ? ctl->given[TOKENIZER] : DEFAULT_TOKENIZER;
	const struct tokenizer *t;
	enum ctl_exit status = CTL_DONE;
	uint32_t *counts;
	char why[256];

	(void)c;
	if (ctl->given[PREFIXES] != NULL && ctl->file_count > 1)
		return complain("--prefixes", "is for one file");
	t = tokenizer_open(name, why, sizeof why);
	if (t == NULL)
		return complain(name, why);
	if (ctl->file_count == 0) {
		ctl->files = input;
		ctl->file_count = 1;
	}
	counts = calloc((size_t)ctl->file_count, sizeof *counts);
	if (counts == NULL)
		return complain("tokens", strerror(errno));
	/* All or nothing: half of an array is no JSON. */
	for (int i = 0; i < ctl->file_count && status == CTL_DONE; i++)
		status = count_file(ctl, t, ctl->files[i], &counts[i]);
	if (status == CTL_DONE && ctl->given[PREFIXES] == NULL)
		print_counts(ctl, counts);
	free(counts);
	return status;
}

const struct command cmd_tokens = {
    "tokens",
    NULL,
    "Count the tokens of files, or of what is read from stdin.  Needs no daemon.",
    {
        [TOKENIZER] = {"--tokenizer", "NAME", NULL, CMD_TEXT, false,
            "o200k_base (if not given), cl100k_base, estimate, or a table's path"},
        [PREFIXES] = {"--prefixes", NULL, NULL, CMD_FLAG, false,
            "print after each character the number of bytes up to it and the count; of one file"},
        {"FILE...", NULL, NULL, CMD_FILES, false, "what to count, up to 1 GiB; -: stdin"},
    },
    tokens,
};

/* Beside its place first: who has the old table mapped keeps it. */
static enum ctl_exit
write_table(const char *path, const void *table, size_t size)
{
	char beside[4096];
	const char *p = table;
	ssize_t n = 0;
	int fd;

	if (snprintf(beside, sizeof beside, "%s.XXXXXX", path) >= (int)sizeof beside)
		return complain(path, strerror(ENAMETOOLONG));
	fd = mkstemp(beside);
	if (fd < 0)
		return complain(path, strerror(errno));
	for (size_t at = 0; n >= 0 && at<size; at += n> 0 ? (size_t)n : 0)
		n = write(fd, p + at, size - at);
	if (n < 0 || fchmod(fd, 0644) != 0 || fsync(fd) != 0 || rename(beside, path) != 0) {
		(void)complain(path, strerror(errno));
		(void)unlink(beside);
		close(fd);
		return CTL_USAGE;
	}
	close(fd);
	return CTL_DONE;
}

/* The file's name without its folder, its .xz and .tiktoken and such. */
static void
base_name(char *to, size_t size, const char *path)
{
	const char *slash = strrchr(path, '/');

	(void)snprintf(to, size, "%s", slash == NULL ? path : slash + 1);
	to[strcspn(to, ".")] = '\0';
	if (to[0] == '\0' || to[0] == '-')
		(void)snprintf(to, size, "tokenizer");
}

enum { BUILD_FILE, BUILD_OUT, BUILD_SPLIT };

static enum ctl_exit
build_vocab(struct ctl *ctl, struct vocab *v, const char *path, const char *out)
{
	struct token_table check;
	const char *split = ctl->given[BUILD_SPLIT];
	enum ctl_exit status;
	char why[128];
	size_t size;
	void *table;

	if (split != NULL && !vocab_rule(split, &v->rule))
		return complain(split, "there is no such pattern");
	if (split == NULL && !v->has_rule)
		return complain(
		    path, "the file does not say how its text is split: name it with --split");
	table = vocab_build(v, &size);
	if (table == NULL)
		return complain(path, v->fault);
	if (token_table_check(&check, table, size, why, sizeof why) != 0)
		status = complain(path, why);
	else
		status = write_table(out, table, size);
	if (status == CTL_DONE && ctl->json) {
		(void)printf("{\"table\":");
		print_json_text(out, strlen(out));
		(void)printf(",\"tokens\":%u,\"bytes\":%zu,\"ordered\":%s}\n", check.h->tokens,
		    size, check.h->ordered ? "true" : "false");
	} else if (status == CTL_DONE) {
		(void)printf("%s: %u tokens, %zu bytes%s\n", out, check.h->tokens, size,
		    check.h->ordered ? "" : "; its pieces are cut at 96 bytes");
	}
	free(table);
	return status;
}

static enum ctl_exit
build(struct ctl *ctl, const struct command *c)
{
	const char *path = ctl->given[BUILD_FILE], *out = ctl->given[BUILD_OUT];
	struct vocab *v = calloc(1, sizeof *v);
	enum ctl_exit status;
	char name[256];
	size_t len;
	char *data = v == NULL ? NULL : read_all(path, VOCAB_FILE_MAX, &len);

	(void)c;
	if (data == NULL) {
		free(v);
		return complain(path, strerror(errno));
	}
	if (out != NULL) {
		base_name(v->name, sizeof v->name, out);
	} else {
		base_name(v->name, sizeof v->name, path);
		(void)snprintf(name, sizeof name, "%s.tok", v->name);
		out = name;
	}
	if (vocab_read(v, data, len) != 0)
		status = complain(path, v->fault);
	else
		status = build_vocab(ctl, v, path, out);
	if (v->normalizes && status == CTL_DONE)
		(void)fprintf(stderr,
		    "tollctl: %s: its text would be brought into the form NFC "
		    "first; tolld counts it as it is\n",
		    path);
	vocab_free(v);
	free(v);
	free(data);
	return status;
}

const struct command cmd_tokenizer_build = {
    "tokenizer build",
    NULL,
    "Make a tokenizer's table from a list of tokens.  Needs no daemon.",
    {
        [BUILD_FILE] = {"FILE", NULL, NULL, CMD_TEXT, true,
            "a .tiktoken file, or a tokenizer.json of byte-level BPE; -: stdin"},
        [BUILD_OUT] = {"-o", "OUT", NULL, CMD_TEXT, false, "where to; else NAME.tok here"},
        [BUILD_SPLIT] = {"--split", "RULE", NULL, CMD_TEXT, false,
            "cl100k_base (also Llama 3), o200k_base, qwen or tekken; .tiktoken needs it"},
    },
    build,
};
