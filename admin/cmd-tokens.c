/*
 * tollctl tokens | tokenizer build: what the daemon counts by, without the daemon.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "admin/tollctl.h"
#include "admin/vocab.h"
#include "daemon/tokenizer.h"
#include "daemon/tokenizer_table.h"

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

/* Bytes of the character at p, and whether it is one. */
static size_t
char_at(const unsigned char *p, size_t left, bool *valid)
{
	size_t n = *p < 0x80                 ? 1
	           : *p >= 0xc2 && *p < 0xe0 ? 2
	           : *p >= 0xe0 && *p < 0xf0 ? 3
	           : *p >= 0xf0 && *p < 0xf5 ? 4
	                                     : 0;

	*valid = n > 0 && n <= left;
	for (size_t i = 1; i < n && *valid; i++)
		*valid = (p[i] & 0xc0) == 0x80;
	if (*valid && n == 3)
		*valid = !(p[0] == 0xe0 && p[1] < 0xa0) && !(p[0] == 0xed && p[1] >= 0xa0);
	if (*valid && n == 4)
		*valid = !(p[0] == 0xf0 && p[1] < 0x90) && !(p[0] == 0xf4 && p[1] >= 0x90);
	return *valid ? n : 1;
}

/* Every byte that is no character becomes U+FFFD, as in what the daemon counts. */
static char *
make_valid(char *data, size_t *len)
{
	size_t bad = 0, n, to = 0;
	bool valid;
	char *out;

	for (size_t at = 0; at < *len; at += n) {
		n = char_at((unsigned char *)data + at, *len - at, &valid);
		bad += !valid;
	}
	if (bad == 0)
		return data;
	out = malloc(*len + 2 * bad);
	for (size_t at = 0; out != NULL && at < *len; at += n) {
		n = char_at((unsigned char *)data + at, *len - at, &valid);
		memcpy(out + to, valid ? data + at : "\xef\xbf\xbd", valid ? n : 3);
		to += valid ? n : 3;
	}
	free(data);
	*len = to;
	return out;
}

/* The count after each byte that completes a character, one a line. */
static void
print_prefixes(const struct tokenizer *t, const char *text, size_t len)
{
	struct token_stream ts;
	bool valid;
	size_t n;

	token_stream_init(&ts, t, TOKENS_SCALE);
	for (size_t at = 0; at < len; at += n) {
		n = char_at((const unsigned char *)text + at, len - at, &valid);
		(void)token_stream_append(&ts, text + at, n);
		(void)printf("%zu %u\n", at + n, ts.now);
	}
	token_stream_fini(&ts);
}

/* In the order of the command's arguments. */
enum { TOKENIZER, PREFIXES };

static enum ctl_exit
count_file(struct ctl *ctl, const struct tokenizer *t, const char *name, int i)
{
	bool several = ctl->file_count > 1;
	uint32_t scale = tokenizer_scale(t);
	size_t len;
	char *text = read_all(name, SIZE_MAX / 4, &len);

	if (text != NULL)
		text = make_valid(text, &len);
	if (text == NULL)
		return complain(name, strerror(errno));
	if (ctl->given[PREFIXES] != NULL) {
		print_prefixes(t, text, len);
	} else if (ctl->json && several) {
		(void)printf("%s{\"file\":", i == 0 ? "[" : ",");
		print_json_text(name, strlen(name));
		(void)printf(",\"tokens\":%u}", tokenizer_count(t, scale, text, len));
	} else if (ctl->json) {
		(void)printf("{\"tokens\":%u}", tokenizer_count(t, scale, text, len));
	} else {
		(void)printf("%u", tokenizer_count(t, scale, text, len));
		if (several) {
			(void)printf(" ");
			print_text(name, strlen(name));
		}
		(void)printf("\n");
	}
	free(text);
	return CTL_DONE;
}

static enum ctl_exit
tokens(struct ctl *ctl, const struct command *c)
{
	static char *const input[] = {(char *)(uintptr_t) "-"};
	const char *name =
	    ctl->given[TOKENIZER] != NULL ? ctl->given[TOKENIZER] : DEFAULT_TOKENIZER;
	const struct tokenizer *t;
	enum ctl_exit status = CTL_DONE;
	char why[256];

	(void)c;
	t = tokenizer_open(name, why, sizeof why);
	if (t == NULL)
		return complain(name, why);
	if (ctl->file_count == 0) {
		ctl->files = input;
		ctl->file_count = 1;
	}
	/* All or nothing: half of an array is no JSON. */
	for (int i = 0; i < ctl->file_count && ctl->file_count > 1; i++)
		if (strcmp(ctl->files[i], "-") != 0 && access(ctl->files[i], R_OK) != 0)
			return complain(ctl->files[i], strerror(errno));
	for (int i = 0; i < ctl->file_count && status == CTL_DONE; i++)
		status = count_file(ctl, t, ctl->files[i], i);
	if (status == CTL_DONE && ctl->json && ctl->given[PREFIXES] == NULL)
		(void)printf(ctl->file_count > 1 ? "]\n" : "\n");
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
            "print the count after each character, with the number of bytes up to it"},
        {"FILE...", NULL, NULL, CMD_FILES, false, "what to count; -: stdin"},
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
