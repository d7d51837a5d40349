/*
 * MessagePack-RPC: finding the end of a message, decoding it, building one.
 * Admin process and tollctl.
 *
 * msgpack-c's own streaming unpacker is not used for framing: it allocates an array as soon as it
 * is announced, so five hostile bytes take gigabytes.  proto_scan walks the headers only, without
 * allocating; msgpack-c then decodes a message that is whole and bounded.
 */
#include "admin/proto.h"

#include <stdlib.h>
#include <string.h>

/* The head of one value: its own bytes (with a scalar's or string's payload) and how many values
 * it holds.  False if the byte is not allowed; *need is 0 if more bytes are wanted to say. */
static bool
value_head(const unsigned char *p, size_t len, uint64_t *need, uint64_t *children)
{
	/* Bytes behind the first one; for 0xc0..0xdf.  A length field is marked by a minus. */
	static const int8_t after[32] = {
	    0, 127, 0, 0,     /* nil, never used, false, true */
	    -1, -2, -4,       /* bin */
	    127, 127, 127,    /* ext: not in this protocol */
	    4, 8,             /* float */
	    1, 2, 4, 8,       /* uint */
	    1, 2, 4, 8,       /* int */
	    127, 127, 127, 127, 127, /* fixext */
	    -1, -2, -4,       /* str */
	    -2, -4,           /* array */
	    -2, -4,           /* map */
	};
	unsigned char c = p[0];
	uint64_t n = 0;
	int a;

	*children = 0;
	*need = 1;
	if (c < 0x80 || c >= 0xe0)
		return true;
	if (c < 0xc0) {
		if (c < 0x90)
			*children = 2 * (uint64_t)(c & 0x0f);
		else if (c < 0xa0)
			*children = c & 0x0f;
		else
			*need = 1 + (uint64_t)(c & 0x1f);
		return true;
	}
	a = after[c - 0xc0];
	if (a == 127)
		return false;
	if (a >= 0) {
		*need = 1 + (uint64_t)a;
		return true;
	}
	if (len < 1 + (size_t)-a) {
		*need = 0;
		return true;
	}
	for (int i = 1; i <= -a; i++)
		n = n << 8 | p[i];
	*need = 1 + (uint64_t)-a;
	if (c >= 0xde)
		*children = 2 * n;
	else if (c >= 0xdc)
		*children = n;
	else
		*need += n;
	return true;
}

enum proto_scan_result
proto_scan(struct proto_scan *s, const char *bytes, size_t len, size_t max)
{
	const unsigned char *p = (const unsigned char *)bytes;
	uint64_t need, children;

	if (s->at > 0 && s->depth == 0)
		return PROTO_WHOLE;
	while (s->at < len) {
		if (!value_head(p + s->at, len - s->at, &need, &children))
			return PROTO_MALFORMED;
		if (need == 0)
			break;
		if (need > max - s->at || children > PROTO_ITEMS_MAX - s->items)
			return PROTO_OVERSIZE;
		if (need > len - s->at)
			break;
		s->at += (size_t)need;
		s->items += (uint32_t)children;
		if (children > 0) {
			if (s->depth == PROTO_DEPTH_MAX)
				return PROTO_MALFORMED;
			s->left[s->depth++] = children;
			continue;
		}
		while (s->depth > 0 && --s->left[s->depth - 1] == 0)
			s->depth--;
		if (s->depth == 0)
			return PROTO_WHOLE;
	}
	return len >= max ? PROTO_OVERSIZE : PROTO_MORE;
}

/* [{...}] or [] as the one map of named values. */
static bool
named(const msgpack_object *o, const msgpack_object **map)
{
	*map = NULL;
	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size > 1)
		return false;
	if (o->via.array.size == 0)
		return true;
	if (o->via.array.ptr[0].type != MSGPACK_OBJECT_MAP)
		return false;
	*map = &o->via.array.ptr[0];
	return true;
}

static bool
method_name(struct proto_message *m, const msgpack_object *o)
{
	if (o->type != MSGPACK_OBJECT_STR)
		return false;
	m->method = o->via.str.ptr;
	m->method_len = o->via.str.size;
	return true;
}

const char *
proto_decode(struct proto_message *m, const char *bytes, size_t len)
{
	const msgpack_object *v;
	size_t off = 0;
	int64_t kind, id;
	uint32_t n;

	memset(m, 0, sizeof *m);
	msgpack_unpacked_init(&m->unpacked);
	if (msgpack_unpack_next(&m->unpacked, bytes, len, &off) != MSGPACK_UNPACK_SUCCESS ||
	    off != len)
		return "not a MessagePack value";
	if (m->unpacked.data.type != MSGPACK_OBJECT_ARRAY)
		return "a message is an array";
	v = m->unpacked.data.via.array.ptr;
	n = m->unpacked.data.via.array.size;
	if (n < 3 || !proto_int(&v[0], &kind) || kind < PROTO_REQUEST ||
	    kind > PROTO_NOTIFICATION || n != (kind == PROTO_NOTIFICATION ? 3 : 4))
		return "a message is [0, id, method, [arguments]], [1, id, error, result] or "
		       "[2, method, [values]]";
	m->kind = (enum proto_kind)kind;
	if (m->kind == PROTO_NOTIFICATION) {
		if (!method_name(m, &v[1]) || !named(&v[2], &m->args))
			return "a notification is [2, method, [{values}]]";
		return NULL;
	}
	if (!proto_int(&v[1], &id) || id < 0 || id > UINT32_MAX)
		return "an id is an integer of 32 bits";
	m->id = (uint32_t)id;
	m->has_id = true;
	if (m->kind == PROTO_REQUEST) {
		if (!method_name(m, &v[2]))
			return "a method is a string";
		if (!named(&v[3], &m->args))
			return "arguments are [{name: value}] or []";
		return NULL;
	}
	if (v[2].type == MSGPACK_OBJECT_MAP)
		m->error = &v[2];
	else if (v[2].type != MSGPACK_OBJECT_NIL)
		return "an error is a map or nil";
	m->result = &v[3];
	return NULL;
}

void
proto_message_free(struct proto_message *m)
{
	msgpack_unpacked_destroy(&m->unpacked);
}

static bool
key_is(const msgpack_object *key, const char *name)
{
	return key->type == MSGPACK_OBJECT_STR && key->via.str.size == strlen(name) &&
	       memcmp(key->via.str.ptr, name, key->via.str.size) == 0;
}

const msgpack_object *
proto_get(const msgpack_object *map, const char *key)
{
	if (map == NULL || map->type != MSGPACK_OBJECT_MAP)
		return NULL;
	for (uint32_t i = 0; i < map->via.map.size; i++)
		if (key_is(&map->via.map.ptr[i].key, key))
			return &map->via.map.ptr[i].val;
	return NULL;
}

bool
proto_int(const msgpack_object *o, int64_t *out)
{
	if (o == NULL)
		return false;
	if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER && o->via.u64 <= INT64_MAX) {
		*out = (int64_t)o->via.u64;
		return true;
	}
	if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) {
		*out = o->via.i64;
		return true;
	}
	return false;
}

int64_t
proto_get_int(const msgpack_object *map, const char *key, int64_t otherwise)
{
	int64_t v;

	return proto_int(proto_get(map, key), &v) ? v : otherwise;
}

bool
proto_get_bool(const msgpack_object *map, const char *key)
{
	const msgpack_object *o = proto_get(map, key);

	return o != NULL && o->type == MSGPACK_OBJECT_BOOLEAN && o->via.boolean;
}

const char *
proto_get_text(const msgpack_object *map, const char *key, size_t *len)
{
	const msgpack_object *o = proto_get(map, key);

	*len = 0;
	if (o == NULL || o->type != MSGPACK_OBJECT_STR)
		return "";
	*len = o->via.str.size;
	return o->via.str.ptr;
}

size_t
proto_utf8(const char *text, size_t len)
{
	/* Unicode, table 3-7. */
	const unsigned char *p = (const unsigned char *)text;
	unsigned char c = p[0], lo = 0x80, hi = 0xbf;
	size_t n;

	if (c < 0x80)
		return 1;
	if (c < 0xc2 || c > 0xf4)
		return 0;
	n = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	if (len < n)
		return 0;
	if (c == 0xe0)
		lo = 0xa0;
	else if (c == 0xed)
		hi = 0x9f;
	else if (c == 0xf0)
		lo = 0x90;
	else if (c == 0xf4)
		hi = 0x8f;
	if (p[1] < lo || p[1] > hi)
		return 0;
	for (size_t i = 2; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

bool
proto_text_ok(const char *text, size_t len)
{
	const unsigned char *p = (const unsigned char *)text;
	size_t n;

	for (size_t i = 0; i < len; i += n) {
		n = proto_utf8(text + i, len - i);
		if (n == 0 || p[i] < 0x20 || p[i] == 0x7f)
			return false;
		/* C1 controls: a terminal may obey them. */
		if (n == 2 && p[i] == 0xc2 && p[i + 1] < 0xa0)
			return false;
	}
	return true;
}

static const char *
take(const struct proto_arg *arg, const msgpack_object *o, struct proto_value *v)
{
	if (arg->type == PROTO_NUMBER) {
		if (!proto_int(o, &v->number))
			return "is not an integer";
		if (v->number < arg->min || v->number > arg->max)
			return "is out of range";
		return NULL;
	}
	if (arg->type == PROTO_BOOL) {
		if (o->type != MSGPACK_OBJECT_BOOLEAN)
			return "is not true or false";
		v->number = o->via.boolean;
		return NULL;
	}
	if (o->type != MSGPACK_OBJECT_STR)
		return "is not a string";
	v->text = o->via.str.ptr;
	v->len = o->via.str.size;
	if (!proto_text_ok(v->text, v->len))
		return "is not plain UTF-8 text";
	if ((int64_t)v->len < arg->min)
		return "is empty";
	if ((int64_t)v->len > arg->max)
		return "is too long";
	return NULL;
}

bool
proto_args(const struct proto_arg *list, const msgpack_object *map,
    struct proto_value value[static PROTO_ARGS_MAX], struct proto_fault *fault)
{
	memset(value, 0, PROTO_ARGS_MAX * sizeof *value);
	*fault = (struct proto_fault){0};
	for (uint32_t i = 0; map != NULL && i < map->via.map.size; i++) {
		const msgpack_object_kv *kv = &map->via.map.ptr[i];
		int n = 0;

		while (list[n].name != NULL && !key_is(&kv->key, list[n].name))
			n++;
		fault->field = list[n].name;
		if (list[n].name == NULL) {
			fault->why = "unknown argument";
			return false;
		}
		if (value[n].given) {
			fault->why = "is given twice";
			return false;
		}
		if (kv->val.type == MSGPACK_OBJECT_NIL)
			continue;
		fault->why = take(&list[n], &kv->val, &value[n]);
		if (fault->why != NULL)
			return false;
		value[n].given = true;
	}
	for (int n = 0; list[n].name != NULL; n++)
		if (list[n].required && !value[n].given) {
			*fault = (struct proto_fault){list[n].name, "is missing"};
			return false;
		}
	return true;
}

/* msgpack-c's sbuffer, but for its memory of failures: packing goes on after one, so the end of a
 * chain of calls is where it is looked at. */
static int
out_write(void *data, const char *bytes, size_t len)
{
	struct proto_out *out = data;
	size_t cap = out->cap > 0 ? out->cap : 256;
	char *p;

	if (out->failed)
		return -1;
	while (cap - out->len < len)
		cap *= 2;
	if (cap > out->cap) {
		p = realloc(out->data, cap);
		if (p == NULL) {
			out->failed = true;
			return -1;
		}
		out->data = p;
		out->cap = cap;
	}
	memcpy(out->data + out->len, bytes, len);
	out->len += len;
	return 0;
}

void
proto_out_init(struct proto_out *out)
{
	memset(out, 0, sizeof *out);
	msgpack_packer_init(&out->pk, out, out_write);
}

void
proto_out_free(struct proto_out *out)
{
	free(out->data);
	out->data = NULL;
	out->len = out->cap = 0;
}

void
proto_put_request(struct proto_out *out, uint32_t id, const char *method)
{
	proto_put_array(out, 4);
	proto_put_int(out, PROTO_REQUEST);
	proto_put_int(out, id);
	proto_put_str(out, method);
	proto_put_array(out, 1);
}

void
proto_put_result(struct proto_out *out, uint32_t id)
{
	proto_put_array(out, 4);
	proto_put_int(out, PROTO_ANSWER);
	proto_put_int(out, id);
	proto_put_nil(out);
}

void
proto_put_notification(struct proto_out *out, const char *method)
{
	proto_put_array(out, 3);
	proto_put_int(out, PROTO_NOTIFICATION);
	proto_put_str(out, method);
	proto_put_array(out, 1);
}

void
proto_put_error(struct proto_out *out, uint32_t id, const char *code, const char *message,
    const char *field)
{
	proto_put_array(out, 4);
	proto_put_int(out, PROTO_ANSWER);
	proto_put_int(out, id);
	proto_put_map(out, field != NULL ? 3 : 2);
	proto_put_kstr(out, "code", code);
	proto_put_kstr(out, "message", message);
	if (field != NULL)
		proto_put_kstr(out, "field", field);
	proto_put_nil(out);
}

void
proto_put_map(struct proto_out *out, size_t pairs)
{
	(void)msgpack_pack_map(&out->pk, pairs);
}

void
proto_put_array(struct proto_out *out, size_t n)
{
	(void)msgpack_pack_array(&out->pk, n);
}

void
proto_put_text(struct proto_out *out, const char *text, size_t len)
{
	(void)msgpack_pack_str(&out->pk, len);
	(void)msgpack_pack_str_body(&out->pk, text, len);
}

void
proto_put_str(struct proto_out *out, const char *text)
{
	proto_put_text(out, text, strlen(text));
}

void
proto_put_int(struct proto_out *out, int64_t v)
{
	(void)msgpack_pack_int64(&out->pk, v);
}

void
proto_put_nil(struct proto_out *out)
{
	(void)msgpack_pack_nil(&out->pk);
}

void
proto_put_kstr(struct proto_out *out, const char *key, const char *value)
{
	proto_put_str(out, key);
	if (value != NULL)
		proto_put_str(out, value);
	else
		proto_put_nil(out);
}

void
proto_put_ktext(struct proto_out *out, const char *key, const char *value, size_t len)
{
	proto_put_str(out, key);
	proto_put_text(out, value, len);
}

void
proto_put_kint(struct proto_out *out, const char *key, int64_t value)
{
	proto_put_str(out, key);
	proto_put_int(out, value);
}

void
proto_put_kbool(struct proto_out *out, const char *key, bool value)
{
	proto_put_str(out, key);
	if (value)
		(void)msgpack_pack_true(&out->pk);
	else
		(void)msgpack_pack_false(&out->pk);
}
