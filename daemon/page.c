/*
 * The chat page: the files that a browser asks for, from the binary.  Worker process; nothing here
 * knows who asks, and nothing of the request but its path, its v and two headers is looked at.
 *
 * The files name each other with ?v=VERSION, the hash of all of them.  Asked with ours they may be
 * kept for ever.  Asked with another one, by a page that an older or newer tolld gave out (workers
 * are replaced one by one), the answer is the file as it is here, and nobody may keep it for that.
 */
#include <string.h>

#include "daemon/page_files.h"
#include "daemon/worker.h"

/*
 * Only what comes from here is run, called or shown; nothing is written as HTML; nobody frames it.
 * data: is for images that a style might hold, never for a script.
 */
#define POLICY                                                                          \
	"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " \
	"img-src 'self' data:; form-action 'none'; base-uri 'none'; "                   \
	"frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

struct file {
	const char *path, *type;
	const char *plain, *gz;
	const uint64_t *plain_len, *gz_len;
};

#define ROW(id, path, file, type) \
	{path, type, page_##id, page_##id##_gz, &page_##id##_len, &page_##id##_gz_len},
static const struct file files[] = {PAGE_FILES(ROW)};

static const struct file *
file_of(struct span path)
{
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		if (span_eq(path, files[i].path))
			return &files[i];
	return NULL;
}

/* The next of a list's members up to `until`, without the blanks around it. */
static struct span
next(struct span *list, char until)
{
	const char *end = list->len > 0 ? memchr(list->p, until, list->len) : NULL;
	struct span one = {list->p, end != NULL ? (size_t)(end - list->p) : list->len};
	size_t used = one.len + (end != NULL ? 1 : 0);

	*list = (struct span){list->p + used, list->len - used};
	return span_trim(one);
}

/* Is a weight above zero?  (RFC 9110: digits after "q=", at most three behind the point.) */
static bool
weighs(struct span parameters)
{
	while (parameters.len > 0) {
		struct span one = next(&parameters, ';');

		if (one.len < 2 || (one.p[0] | 0x20) != 'q' || one.p[1] != '=')
			continue;
		for (size_t i = 2; i < one.len; i++)
			if (one.p[i] >= '1' && one.p[i] <= '9')
				return true;
		return false;
	}
	return true;
}

/* Does it take gzip?  A browser says so; whoever says nothing gets the plain bytes. */
static bool
takes_gzip(struct span accept)
{
	while (accept.len > 0) {
		struct span parameters = next(&accept, ',');
		struct span coding = next(&parameters, ';');

		if (span_case_eq(coding, "gzip"))
			return weighs(parameters);
	}
	return false;
}

/* If-None-Match: a list of tags, compared weakly, or "*". */
static bool
has_tag(struct span list, const char *tag)
{
	while (list.len > 0) {
		struct span one = next(&list, ',');

		if (one.len > 2 && memcmp(one.p, "W/", 2) == 0)
			one = (struct span){one.p + 2, one.len - 2};
		if (span_eq(one, tag) || span_eq(one, "*"))
			return true;
	}
	return false;
}

void
page_handler(struct conn *c, const struct http_request *h, struct span body)
{
	const struct file *f = file_of(h->path);
	size_t n = page_version_len;
	bool gzip = takes_gzip(http_header(h, "accept-encoding"));
	char tag[80], version[72];
	bool ours;

	(void)body;
	if (f == NULL || n + sizeof "\"-gz\"" > sizeof tag) {
		conn_error(c, 404, "invalid_request_error", "not_found", NULL,
		    "there is nothing at this path");
		return;
	}
	snprintf(tag, sizeof tag, "\"%.*s%s\"", (int)n, page_version, gzip ? "-gz" : "");
	ours = http_query(h->query, "v", version, sizeof version, NULL) && strlen(version) == n &&
	       memcmp(version, page_version, n) == 0;
	conn_header(c, "ETag", "%s", tag);
	/* The page itself is the one name that must lead to the newest of all the others. */
	conn_header(c, "Cache-Control", "%s",
	    ours && f != &files[0] ? "public, max-age=31536000, immutable" : "no-cache");
	conn_header(c, "Vary", "Accept-Encoding");
	conn_header(c, "Content-Security-Policy", "%s", POLICY);
	conn_header(c, "X-Content-Type-Options", "nosniff");
	conn_header(c, "X-Frame-Options", "DENY");
	conn_header(c, "Referrer-Policy", "no-referrer");
	conn_header(c, "Cross-Origin-Opener-Policy", "same-origin");
	conn_header(c, "Permissions-Policy", "camera=(), geolocation=(), microphone=()");
	if (has_tag(http_header(h, "if-none-match"), tag)) {
		conn_reply(c, 304, NULL, NULL, 0);
		return;
	}
	if (gzip) {
		conn_header(c, "Content-Encoding", "gzip");
		conn_reply(c, 200, f->type, f->gz, *f->gz_len);
	} else {
		conn_reply(c, 200, f->type, f->plain, *f->plain_len);
	}
}
