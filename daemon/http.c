/*
 * A strict parser of HTTP/1.x request heads.  Pure; runs in workers.
 *
 * It works in two passes.  The first only looks for the end: line by line, by memchr, refusing
 * bare LF and what is too long the moment it shows; it is the one that is resumed when bytes
 * come in pieces.  The second runs once, over a whole head.  Since the first depends on nothing
 * but the bytes so far, and the second sees all of them, how the bytes were cut can't change the
 * result: that is what a smuggled request would need.
 */
#include "daemon/http.h"

#include <string.h>

#include "daemon/hex.h"
#include "daemon/http_chars.h"

#define T HTTP_TCHAR
#define F HTTP_FIELD
#define U HTTP_TARGET
#define H HTTP_HOST
#define BIT(c, set) [c] = (set)
#define RANGE(a, b, set) [(a)...(b)] = (set)

/* clang-format off */
const uint8_t http_chars[256] = {
	BIT('\t', F),
	BIT(' ', F),
	BIT('!', T | F | U | H),
	BIT('"', F | U),
	BIT('#', T | F),
	RANGE('$', '\'', T | F | U | H), /* $ % & ' */
	RANGE('(', ')', F | U | H),
	RANGE('*', '+', T | F | U | H),
	BIT(',', F | U), /* of a reg-name, but here it would be two Hosts made one on the way */
	RANGE('-', '.', T | F | U | H),
	BIT('/', F | U),
	RANGE('0', '9', T | F | U | H),
	RANGE(':', ';', F | U | H),
	BIT('<', F | U),
	BIT('=', F | U | H),
	RANGE('>', '@', F | U),
	RANGE('A', 'Z', T | F | U | H),
	BIT('[', F | U | H),
	BIT('\\', F | U),
	BIT(']', F | U | H),
	BIT('^', T | F | U),
	BIT('_', T | F | U | H),
	BIT('`', T | F | U),
	RANGE('a', 'z', T | F | U | H),
	BIT('{', F | U),
	BIT('|', T | F | U),
	BIT('}', F | U),
	BIT('~', T | F | U | H),
	RANGE(0x80, 0xff, F),
};
/* clang-format on */

#undef T
#undef F
#undef U
#undef H
#undef BIT
#undef RANGE

static enum http_parse
refuse(struct http_fault *fault, int status, const char *why)
{
	fault->status = status;
	fault->why = why;
	return HTTP_PARSE_BAD;
}

/*
 * Skip one empty line before the request line (RFC 9112 2.2), and refuse at the first byte what
 * can't be a request (a TLS hello, say) rather than wait for its end.
 */
static enum http_parse
parse_start(const char *bytes, size_t len, size_t *start, struct http_fault *fault)
{
	*start = 0;
	if (len > 0 && bytes[0] == '\r') {
		if (len < 2)
			return HTTP_PARSE_MORE;
		if (bytes[1] != '\n')
			return refuse(fault, 400, "carriage return without line feed");
		*start = 2;
	}
	if (*start == len)
		return HTTP_PARSE_MORE;
	if (!http_char(bytes[*start], HTTP_TCHAR))
		return refuse(fault, 400, "malformed request line");
	return HTTP_PARSE_OK;
}

/* Find the empty line: OK and *head_len behind it.  *scanned is the start of the open line. */
static enum http_parse
parse_frame(const char *bytes, size_t len, size_t start, size_t *scanned, size_t *head_len,
    struct http_fault *fault)
{
	size_t line = *scanned > start ? *scanned : start, limit, window;
	const char *lf;

	for (;;) {
		limit = line + HTTP_LINE_MAX;
		if (limit > start + HTTP_HEAD_MAX)
			limit = start + HTTP_HEAD_MAX;
		window = len < limit ? len : limit;
		lf = window > line ? memchr(bytes + line, '\n', window - line) : NULL;
		if (lf == NULL) {
			*scanned = line;
			if (len < limit)
				return HTTP_PARSE_MORE;
			return line == start ? refuse(fault, 414, "request line too long")
			                     : refuse(fault, 431, "headers too large");
		}
		if (lf == bytes + line || lf[-1] != '\r')
			return refuse(fault, 400, "line feed without carriage return");
		if (lf - 1 == bytes + line) {
			*head_len = (size_t)(lf - bytes) + 1;
			return HTTP_PARSE_OK;
		}
		/* Somebody may take this for the empty line; elsewhere the second pass finds it. */
		if (bytes[line] == '\r')
			return refuse(fault, 400, "carriage return without line feed");
		line = (size_t)(lf - bytes) + 1;
	}
}

static enum http_method
method_of(struct span text)
{
	static const struct {
		const char *name;
		enum http_method method;
	} known[] = {
	    {"GET", HTTP_GET},
	    {"POST", HTTP_POST},
	    {"HEAD", HTTP_HEAD},
	    {"OPTIONS", HTTP_OPTIONS},
	    {"DELETE", HTTP_DELETE},
	    {"PUT", HTTP_PUT},
	    {"PATCH", HTTP_PATCH},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (span_eq(text, known[i].name))
			return known[i].method;
	return HTTP_OTHER;
}

/* uri-host [ ":" port ]; may be empty, as RFC 9112 3.2 has it for targets without authority. */
static bool
host_ok(struct span host)
{
	const char *end = host.p + host.len, *p = host.p;

	if (host.len == 0)
		return true;
	if (!http_all(host.p, host.len, HTTP_HOST))
		return false;
	if (*p == '[') {
		p = memchr(p, ']', host.len);
		if (p == NULL || p == host.p + 1)
			return false;
		p++;
	} else {
		while (p < end && *p != ':' && *p != '[' && *p != ']')
			p++;
	}
	if (p == end)
		return true;
	if (*p++ != ':')
		return false;
	while (p < end && *p >= '0' && *p <= '9')
		p++;
	return p == end;
}

/* scheme "://" authority [path]: cut to the authority and what follows it. */
static bool
parse_absolute(struct span target, struct span *host, struct span *rest)
{
	size_t at = 0;

	if (target.len > 7 && span_case_eq((struct span){target.p, 7}, "http://"))
		at = 7;
	else if (target.len > 8 && span_case_eq((struct span){target.p, 8}, "https://"))
		at = 8;
	else
		return false;
	host->p = target.p + at;
	while (at < target.len && target.p[at] != '/' && target.p[at] != '?')
		at++;
	host->len = (size_t)(target.p + at - host->p);
	*rest = (struct span){target.p + at, target.len - at};
	/* User information ('@') is no character of a host; an http URI without one is invalid. */
	return host->len > 0 && host_ok(*host) && host->p[0] != ':';
}

static enum http_parse
parse_target(struct http_request *rq, struct http_fault *fault)
{
	struct span path = rq->target, host;
	const char *mark;

	if (path.len == 0 || !http_all(path.p, path.len, HTTP_TARGET))
		return refuse(fault, 400, "malformed request target");
	if (span_eq(rq->method_text, "CONNECT"))
		return refuse(fault, 501, "CONNECT is not served");
	if (path.p[0] != '/' && !(span_eq(path, "*") && rq->method == HTTP_OPTIONS)) {
		if (!parse_absolute(rq->target, &host, &path))
			return refuse(fault, 400, "malformed request target");
	}
	mark = path.len > 0 ? memchr(path.p, '?', path.len) : NULL;
	rq->query = (struct span){"", 0};
	if (mark != NULL) {
		rq->query.p = mark + 1;
		rq->query.len = (size_t)(path.p + path.len - rq->query.p);
		path.len = (size_t)(mark - path.p);
	}
	rq->path = path.len > 0 ? path : SPAN("/");
	return HTTP_PARSE_OK;
}

/* method SP target SP "HTTP/" DIGIT "." DIGIT */
static enum http_parse
parse_request_line(const char *p, size_t len, struct http_request *rq, struct http_fault *fault)
{
	const char *end = p + len, *sp = memchr(p, ' ', len), *version;

	if (sp == NULL || sp == p || !http_all(p, (size_t)(sp - p), HTTP_TCHAR))
		return refuse(fault, 400, "malformed request line");
	rq->method_text = (struct span){p, (size_t)(sp - p)};
	rq->method = method_of(rq->method_text);
	p = sp + 1;
	sp = memchr(p, ' ', (size_t)(end - p));
	if (sp == NULL)
		return refuse(fault, 400, "malformed request line");
	rq->target = (struct span){p, (size_t)(sp - p)};
	version = sp + 1;
	if (end - version != 8 || memcmp(version, "HTTP/", 5) != 0 || version[6] != '.' ||
	    version[5] < '0' || version[5] > '9' || version[7] < '0' || version[7] > '9')
		return refuse(fault, 400, "malformed HTTP version");
	if (version[5] != '1' || version[7] > '1')
		return refuse(fault, 505, "only HTTP/1.0 and HTTP/1.1 are served");
	rq->minor = version[7] - '0';
	return parse_target(rq, fault);
}

/* What the fields that frame the message said so far. */
struct framing {
	int hosts, lengths, codings;
	bool close, keep_alive;
};

static bool
parse_length(struct span v, uint64_t *length)
{
	*length = 0;
	/* 19 digits can't overflow 64 bits. */
	if (v.len == 0 || v.len > 19)
		return false;
	for (size_t i = 0; i < v.len; i++) {
		if (v.p[i] < '0' || v.p[i] > '9')
			return false;
		*length = *length * 10 + (uint64_t)(v.p[i] - '0');
	}
	return true;
}

/* llhttp refuses a tab behind the values that frame a message; then so do we. */
static bool
tab_behind(struct span v)
{
	const char *p = v.p + v.len;

	while (*p == ' ')
		p++;
	return *p == '\t';
}

/* Connection: a list of tokens. */
static void
parse_connection(struct span v, struct framing *f)
{
	size_t at = 0, from, end;

	while (at < v.len) {
		from = at;
		while (at < v.len && v.p[at] != ',')
			at++;
		end = at++;
		while (from < end && (v.p[from] == ' ' || v.p[from] == '\t'))
			from++;
		while (end > from && (v.p[end - 1] == ' ' || v.p[end - 1] == '\t'))
			end--;
		if (span_case_eq((struct span){v.p + from, end - from}, "close"))
			f->close = true;
		else if (span_case_eq((struct span){v.p + from, end - from}, "keep-alive"))
			f->keep_alive = true;
	}
}

static enum http_parse
parse_framing(struct http_request *rq, const struct http_header *h, struct framing *f,
    struct http_fault *fault)
{
	/* The length tells most names apart before a byte is compared. */
	switch (h->name.len) {
	case 4:
		if (!span_case_eq(h->name, "host"))
			break;
		if (f->hosts++ > 0)
			return refuse(fault, 400, "more than one Host");
		if (!host_ok(h->value))
			return refuse(fault, 400, "malformed Host");
		break;
	case 6:
		/* RFC 9110 10.1.1: ignored in HTTP/1.0. */
		if (rq->minor == 1 && span_case_eq(h->name, "expect") &&
		    span_case_eq(h->value, "100-continue"))
			rq->expect_continue = true;
		break;
	case 10:
		if (span_case_eq(h->name, "connection"))
			parse_connection(h->value, f);
		break;
	case 14:
		if (!span_case_eq(h->name, "content-length"))
			break;
		/* Even equal ones: something on the way may see only one of them. */
		if (f->lengths++ > 0)
			return refuse(fault, 400, "more than one Content-Length");
		if (!parse_length(h->value, &rq->content_length) || tab_behind(h->value))
			return refuse(fault, 400, "malformed Content-Length");
		rq->has_length = true;
		break;
	case 17:
		if (!span_case_eq(h->name, "transfer-encoding"))
			break;
		if (f->codings++ > 0)
			return refuse(fault, 400, "more than one Transfer-Encoding");
		if (rq->minor == 0)
			return refuse(fault, 400, "Transfer-Encoding in HTTP/1.0");
		if (h->value.len == 0 || tab_behind(h->value))
			return refuse(fault, 400, "malformed Transfer-Encoding");
		if (!span_case_eq(h->value, "chunked"))
			return refuse(fault, 501, "unknown Transfer-Encoding");
		rq->chunked = true;
		break;
	}
	return HTTP_PARSE_OK;
}

static enum http_parse
parse_field(const char *p, size_t len, struct http_header *h, struct http_fault *fault)
{
	const char *colon = memchr(p, ':', len), *end = p + len;

	if (p[0] == ' ' || p[0] == '\t')
		return refuse(fault, 400, "folded header line");
	if (colon == NULL || colon == p || !http_all(p, (size_t)(colon - p), HTTP_TCHAR))
		return refuse(fault, 400, "malformed header name");
	h->name = (struct span){p, (size_t)(colon - p)};
	p = colon + 1;
	if (!http_all(p, (size_t)(end - p), HTTP_FIELD))
		return refuse(fault, 400, "malformed header value");
	while (p < end && (*p == ' ' || *p == '\t'))
		p++;
	while (end > p && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	h->value = (struct span){p, (size_t)(end - p)};
	return HTTP_PARSE_OK;
}

static enum http_parse
parse_fields(const char *p, const char *end, struct http_request *rq, struct http_fault *fault)
{
	struct framing f = {0};

	while (*p != '\r') {
		const char *lf = memchr(p, '\n', (size_t)(end - p));
		struct http_header *h = &rq->header[rq->headers];

		if (rq->headers == HTTP_HEADERS_MAX)
			return refuse(fault, 431, "too many headers");
		if (parse_field(p, (size_t)(lf - 1 - p), h, fault) != HTTP_PARSE_OK ||
		    parse_framing(rq, h, &f, fault) != HTTP_PARSE_OK)
			return HTTP_PARSE_BAD;
		rq->headers++;
		p = lf + 1;
	}
	if (f.hosts == 0 && rq->minor == 1)
		return refuse(fault, 400, "no Host");
	if (rq->chunked && rq->has_length)
		return refuse(fault, 400, "both Content-Length and Transfer-Encoding");
	rq->keep_alive = !f.close && (rq->minor == 1 || f.keep_alive);
	return HTTP_PARSE_OK;
}

enum http_parse
http_parse_head(const char *bytes, size_t len, size_t *scanned, struct http_request *rq,
    size_t *head_len, struct http_fault *fault)
{
	enum http_parse r;
	const char *lf;
	size_t start;

	r = parse_start(bytes, len, &start, fault);
	if (r != HTTP_PARSE_OK)
		return r;
	r = parse_frame(bytes, len, start, scanned, head_len, fault);
	if (r != HTTP_PARSE_OK)
		return r;
	/* Field by field: the header table is 2 KB that needn't be cleared. */
	rq->keep_alive = rq->chunked = rq->expect_continue = rq->has_length = false;
	rq->content_length = 0;
	rq->headers = 0;
	lf = memchr(bytes + start, '\n', *head_len - start);
	r = parse_request_line(bytes + start, (size_t)(lf - 1 - (bytes + start)), rq, fault);
	if (r != HTTP_PARSE_OK)
		return r;
	return parse_fields(lf + 1, bytes + *head_len, rq, fault);
}

struct span
http_header(const struct http_request *rq, const char *name)
{
	for (int i = 0; i < rq->headers; i++)
		if (span_case_eq(rq->header[i].name, name))
			return rq->header[i].value;
	return (struct span){NULL, 0};
}

static bool
percent_decode(const char *p, size_t n, bool plus, char *out, size_t cap, size_t *len)
{
	size_t o = 0;

	for (size_t i = 0; i < n; i++) {
		char c = p[i];

		if (c == '+' && plus) {
			c = ' ';
		} else if (c == '%') {
			int high = i + 2 < n ? hex_digit(p[i + 1]) : -1;
			int low = i + 2 < n ? hex_digit(p[i + 2]) : -1;

			if (high < 0 || low < 0)
				return false;
			c = (char)(high << 4 | low);
			i += 2;
		}
		if (c == '\0' || o + 1 >= cap)
			return false;
		out[o++] = c;
	}
	out[o] = '\0';
	if (len != NULL)
		*len = o;
	return true;
}

bool
http_unescape(struct span text, char *out, size_t cap, size_t *len)
{
	return percent_decode(text.p, text.len, false, out, cap, len);
}

/* A parameter's value as it is written; p is NULL if it is absent. */
static struct span
query_value(struct span query, const char *name)
{
	const char *p = query.p, *end = query.p + query.len;
	size_t name_len = strlen(name);

	while (p < end) {
		const char *amp = memchr(p, '&', (size_t)(end - p));
		const char *stop = amp != NULL ? amp : end;
		const char *eq = memchr(p, '=', (size_t)(stop - p));
		size_t n = (size_t)((eq != NULL ? eq : stop) - p);

		if (n == name_len && memcmp(p, name, n) == 0) {
			p = eq != NULL ? eq + 1 : stop;
			return (struct span){p, (size_t)(stop - p)};
		}
		p = stop + 1;
	}
	return (struct span){0};
}

bool
http_query_has(struct span query, const char *name)
{
	return query_value(query, name).p != NULL;
}

bool
http_query(struct span query, const char *name, char *out, size_t cap, size_t *len)
{
	struct span v = query_value(query, name);

	/* application/x-www-form-urlencoded, as browsers write queries. */
	return v.p != NULL && percent_decode(v.p, v.len, true, out, cap, len);
}

const char *
http_reason(int status)
{
	/* clang-format off */
	static const struct {
		int status;
		const char *reason;
	} table[] = {
		{101, "Switching Protocols"}, {200, "OK"}, {201, "Created"},
	    {202, "Accepted"}, {204, "No Content"},
		{304, "Not Modified"}, {400, "Bad Request"}, {401, "Unauthorized"},
		{402, "Payment Required"}, {403, "Forbidden"}, {404, "Not Found"},
		{405, "Method Not Allowed"}, {408, "Request Timeout"}, {409, "Conflict"},
		{410, "Gone"}, {411, "Length Required"}, {413, "Content Too Large"},
		{414, "URI Too Long"}, {415, "Unsupported Media Type"},
		{417, "Expectation Failed"}, {422, "Unprocessable Content"},
		{426, "Upgrade Required"}, {429, "Too Many Requests"},
		{431, "Request Header Fields Too Large"}, {500, "Internal Server Error"},
		{501, "Not Implemented"}, {502, "Bad Gateway"}, {503, "Service Unavailable"},
		{504, "Gateway Timeout"}, {505, "HTTP Version Not Supported"},
	};
	/* clang-format on */

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (table[i].status == status)
			return table[i].reason;
	return "Unknown";
}
