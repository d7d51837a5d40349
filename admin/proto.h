#ifndef ADMIN_PROTO_H
#define ADMIN_PROTO_H

/*
 * MessagePack-RPC, as spoken on the admin socket (docs/admin-protocol.md):
 *   request       [0, id, method, [{named arguments}]]
 *   answer        [1, id, nil | {"code", "message", "field"?}, result]
 *   notification  [2, method, [{named values}]]
 * A message ends where its MessagePack value ends.  Both sides use this file; it knows nothing of
 * sockets or shared memory.  Amounts travel as integer micro-credits.
 */
#include <msgpack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One higher when a peer of before would misunderstand: not for new methods, arguments or members. */
#define PROTO_VERSION 1
#define PROTO_REQUEST_MAX (1u << 20) /* bytes of a message to the daemon */
#define PROTO_ANSWER_MAX (4u << 20)  /* bytes of a message from it */
#define PROTO_DEPTH_MAX 12
#define PROTO_ITEMS_MAX (1u << 18) /* values in one message, all levels together */

enum proto_scan_result { PROTO_MORE, PROTO_WHOLE, PROTO_MALFORMED, PROTO_OVERSIZE };

/* Where a message ends; zeroed before its first byte.  Nothing is allocated for a message that
 * is not whole, so announcing a huge array costs the peer's time only. */
struct proto_scan {
	size_t at;       /* bytes of whole values so far; PROTO_WHOLE: the message's length */
	uint32_t items;  /* values met or announced */
	uint32_t depth;  /* open containers */
	uint64_t left[PROTO_DEPTH_MAX]; /* values that each still lacks */
};

/* Go on with bytes[0..len), the message's start being bytes[0] at every call. */
enum proto_scan_result proto_scan(struct proto_scan *, const char *bytes, size_t len, size_t max);

enum proto_kind { PROTO_REQUEST = 0, PROTO_ANSWER = 1, PROTO_NOTIFICATION = 2 };

/* A decoded message; its strings lie in the bytes that it was decoded from. */
struct proto_message {
	msgpack_unpacked unpacked;
	enum proto_kind kind;
	uint32_t id;              /* request, answer */
	bool has_id;              /* `id` is good, even if the rest is not */
	const char *method;       /* request, notification */
	size_t method_len;
	const msgpack_object *args;   /* request, notification: the map, or NULL for none */
	const msgpack_object *error;  /* answer: a map, or NULL */
	const msgpack_object *result; /* answer */
};

/* Decode one whole message (as proto_scan found it).  NULL, or what is wrong with it.  Either
 * way proto_message_free is due. */
const char *proto_decode(struct proto_message *, const char *bytes, size_t len)
    __attribute__((warn_unused_result));
void proto_message_free(struct proto_message *);

/* Member of a map by its key; NULL if it is not a map or has no such key. */
const msgpack_object *proto_get(const msgpack_object *map, const char *key);
/* The same, of a type; the default where it is absent or another type. */
int64_t proto_get_int(const msgpack_object *map, const char *key, int64_t otherwise);
bool proto_get_bool(const msgpack_object *map, const char *key);
/* *len is 0 and the result "" where absent. */
const char *proto_get_text(const msgpack_object *map, const char *key, size_t *len);
/* An integer within int64. */
bool proto_int(const msgpack_object *, int64_t *);

/* Length of the character of well-formed UTF-8 at the start of text (len > 0); 0 if it is none. */
size_t proto_utf8(const char *text, size_t len);
/* Valid UTF-8 without control characters. */
bool proto_text_ok(const char *text, size_t len);

/* Named arguments: what a method takes, and what it got. */
enum proto_arg_type {
	PROTO_TEXT,   /* UTF-8 without control characters, min..max bytes */
	PROTO_NUMBER, /* an integer in min..max */
	PROTO_BOOL,   /* true or false; its number is 1 or 0 */
};

struct proto_arg {
	const char *name; /* NULL ends a list */
	enum proto_arg_type type;
	bool required;
	int64_t min, max;
};

struct proto_value {
	bool given; /* nil counts as not given */
	const char *text;
	size_t len;
	int64_t number;
};

#define PROTO_ARGS_MAX 16

struct proto_fault {
	const char *field; /* a name from the list, or NULL when the argument is unknown */
	const char *why;
};

/*
 * Match a map of named arguments (NULL: none) against the list: value[i] is list[i]'s.
 * False with the fault for a missing, ill-typed, out of range, unknown or repeated one.
 */
bool proto_args(const struct proto_arg *list, const msgpack_object *map,
    struct proto_value value[static PROTO_ARGS_MAX], struct proto_fault *)
    __attribute__((warn_unused_result));

/* Messages being built. */
struct proto_out {
	char *data; /* free() it, or proto_out_free */
	size_t len, cap;
	bool failed; /* out of memory: not whole */
	msgpack_packer pk;
};

void proto_out_init(struct proto_out *);
void proto_out_free(struct proto_out *);

/* Heads; exactly what each announces must follow. */
void proto_put_request(struct proto_out *, uint32_t id, const char *method); /* a map follows */
void proto_put_result(struct proto_out *, uint32_t id);                      /* a value follows */
void proto_put_notification(struct proto_out *, const char *method);         /* a map follows */
/* Whole answers. */
void proto_put_error(struct proto_out *, uint32_t id, const char *code, const char *message,
    const char *field);

void proto_put_map(struct proto_out *, size_t pairs);
void proto_put_array(struct proto_out *, size_t n);
void proto_put_text(struct proto_out *, const char *, size_t);
void proto_put_str(struct proto_out *, const char *);
void proto_put_int(struct proto_out *, int64_t);
void proto_put_nil(struct proto_out *);
/* Key and value. */
void proto_put_kstr(struct proto_out *, const char *key, const char *value); /* NULL: nil */
void proto_put_ktext(struct proto_out *, const char *key, const char *value, size_t len);
void proto_put_kint(struct proto_out *, const char *key, int64_t value);
void proto_put_kbool(struct proto_out *, const char *key, bool value);

#endif
