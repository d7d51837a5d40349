#ifndef DAEMON_HTTP_H
#define DAEMON_HTTP_H

/*
 * A strict HTTP/1.1 request parser (RFC 9112), pure: bytes in, a request or a refusal out.
 * CR LF only; exactly one Host (HTTP/1.1); one Content-Length of digits only or
 * "Transfer-Encoding: chunked" alone, never both; no obs-fold, no space before the colon, no NUL
 * or other control bytes; everything bounded.  Whatever llhttp refuses is refused here.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/buf.h"

#define HTTP_HEAD_MAX 16384  /* request line and headers together: 431 beyond */
#define HTTP_LINE_MAX 8192   /* request line: 414; a header line: 431 */
#define HTTP_HEADERS_MAX 64  /* 431 beyond */

enum http_method {
	HTTP_GET = 1,
	HTTP_HEAD = 2,
	HTTP_POST = 4,
	HTTP_PUT = 8,
	HTTP_DELETE = 16,
	HTTP_OPTIONS = 32,
	HTTP_PATCH = 64,
	HTTP_OTHER = 128,
};

struct http_header {
	struct span name, value; /* value without surrounding white space */
};

struct http_request { /* spans point into the parsed bytes */
	enum http_method method;
	struct span method_text, target;
	struct span path, query; /* target split at the first '?'; path is not decoded */
	int minor; /* HTTP/1.minor */
	bool keep_alive, chunked, expect_continue;
	bool has_length;
	uint64_t content_length;
	struct http_header header[HTTP_HEADERS_MAX];
	int headers;
};

enum http_parse { HTTP_PARSE_OK, HTTP_PARSE_MORE, HTTP_PARSE_BAD };

struct http_fault {
	int status; /* 400, 413, 414, 431, 501, 505; 503 when out of memory */
	const char *why;
};

/*
 * Parse a request head at the start of bytes.  OK: *head_len is its length.  MORE: not complete
 * yet; *scanned remembers where to go on (start with 0).  BAD: *fault.
 */
enum http_parse http_parse_head(const char *bytes, size_t len, size_t *scanned,
    struct http_request *, size_t *head_len, struct http_fault *);

/* The value of a header, by case-insensitive name; p is NULL if absent. */
struct span http_header(const struct http_request *, const char *name);
/*
 * A query parameter, percent-decoded into out ('+' is a space) and NUL-terminated; false if
 * absent, malformed, with a NUL in it or not shorter than cap.  len may be NULL.
 */
bool http_query(struct span query, const char *name, char *out, size_t cap, size_t *len);
/* Is it there at all? */
bool http_query_has(struct span query, const char *name);
/* A part of a path, percent-decoded and NUL-terminated; false if malformed, with a NUL in it or not
 * shorter than cap. */
bool http_unescape(struct span, char *out, size_t cap, size_t *len);

/* Chunked transfer coding of a request body (daemon/http_chunked.c).  Starts as {0}. */
struct http_chunked {
	int state;
	uint64_t left;
	uint32_t line;     /* digits of the chunk size so far */
	uint32_t trailers; /* bytes of trailers */
	uint32_t extensions; /* bytes of chunk extensions */
	uint32_t name_len;
	char name[20]; /* of the trailer being read */
};
/*
 * Decode; data goes to `body`, at most max bytes in all (413).  *used tells how many input
 * bytes were taken.  OK: the body is complete.
 */
enum http_parse http_chunked_feed(struct http_chunked *, const char *bytes, size_t len,
    size_t *used, struct buf *body, size_t max, struct http_fault *);

const char *http_reason(int status);

#endif
