/*
 * tollctl's output: JSON with money in credits, objects, tables.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "admin/tollctl.h"
#include "shm/money.h"

bool
print_is_money(const char *key, size_t len)
{
	static const char *const names[] = {
	    "balance", "held", "available", "overdraft", "amount", "charge", "expected", "found",
	    "total", "uncollected", "cost", "cap", "used", "price_prompt", "price_cached",
	    "price_completion", "price_reasoning", "price_cache_write", "price_request",
	    "budget_day", "budget_month", "limit", "spent", "left"};

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (strlen(names[i]) == len && memcmp(names[i], key, len) == 0)
			return true;
	return false;
}

static bool
key_money(const msgpack_object *key)
{
	return key->type == MSGPACK_OBJECT_STR &&
	       print_is_money(key->via.str.ptr, key->via.str.size);
}

void
print_json_text(const char *text, size_t len)
{
	(void)putchar('"');
	for (size_t i = 0, n; i < len; i += n) {
		unsigned char c = (unsigned char)text[i];

		n = proto_utf8(text + i, len - i);
		if (n == 0) {
			(void)fputs("\\ufffd", stdout);
			n = 1;
		} else if (c == '"' || c == '\\')
			(void)printf("\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			(void)printf("\\u%04x", c);
		else
			(void)fwrite(text + i, 1, n, stdout);
	}
	(void)putchar('"');
}

static void
print_money(int64_t amount)
{
	char text[MONEY_TEXT_MAX];

	(void)money_format(text, amount);
	(void)fputs(text, stdout);
}

static void
print_value(const msgpack_object *o, bool money)
{
	int64_t v;

	switch (o->type) {
	case MSGPACK_OBJECT_BOOLEAN:
		(void)fputs(o->via.boolean ? "true" : "false", stdout);
		break;
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		if (money && proto_int(o, &v))
			print_money(v);
		else if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
			(void)printf("%" PRIu64, o->via.u64);
		else
			(void)printf("%" PRId64, o->via.i64);
		break;
	case MSGPACK_OBJECT_STR:
		print_json_text(o->via.str.ptr, o->via.str.size);
		break;
	case MSGPACK_OBJECT_ARRAY:
		(void)putchar('[');
		for (uint32_t i = 0; i < o->via.array.size; i++) {
			(void)fputs(i > 0 ? "," : "", stdout);
			print_json(&o->via.array.ptr[i]);
		}
		(void)putchar(']');
		break;
	case MSGPACK_OBJECT_MAP:
		(void)putchar('{');
		for (uint32_t i = 0; i < o->via.map.size; i++) {
			const msgpack_object_kv *kv = &o->via.map.ptr[i];

			(void)fputs(i > 0 ? "," : "", stdout);
			print_json_pair(kv);
		}
		(void)putchar('}');
		break;
	default: /* floats and binary are not in any answer */
		(void)fputs("null", stdout);
		break;
	}
}

void
print_json(const msgpack_object *o)
{
	print_value(o, false);
}

void
print_json_pair(const msgpack_object_kv *kv)
{
	print_value(&kv->key, false);
	(void)putchar(':');
	print_value(&kv->val, key_money(&kv->key));
}

void
print_text(const char *text, size_t len)
{
	for (size_t i = 0, n; i < len; i += n) {
		n = proto_utf8(text + i, len - i);
		if (n == 0 || !proto_text_ok(text + i, n)) {
			(void)putchar('?');
			n = n == 0 ? 1 : n;
		} else
			(void)fwrite(text + i, 1, n, stdout);
	}
}

void
print_time(int64_t unix_seconds)
{
	time_t t = (time_t)unix_seconds;
	char text[32];
	struct tm tm;

	if (gmtime_r(&t, &tm) == NULL ||
	    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		(void)printf("%" PRId64, unix_seconds);
	else
		(void)fputs(text, stdout);
}

static bool
ends_with(const msgpack_object *key, const char *end)
{
	size_t n = strlen(end);

	return key->type == MSGPACK_OBJECT_STR && key->via.str.size >= n &&
	       memcmp(key->via.str.ptr + key->via.str.size - n, end, n) == 0;
}

/* A field for a person. */
static void
print_field(const msgpack_object *key, const msgpack_object *o)
{
	int64_t v;

	if (o->type == MSGPACK_OBJECT_STR)
		print_text(o->via.str.ptr, o->via.str.size);
	else if (o->type == MSGPACK_OBJECT_NIL)
		(void)fputs(ends_with(key, "_at") ? "never" : "-", stdout);
	else if (o->type == MSGPACK_OBJECT_BOOLEAN)
		(void)fputs(o->via.boolean ? "yes" : "no", stdout);
	else if (ends_with(key, "_at") && proto_int(o, &v))
		print_time(v);
	else if (o->type == MSGPACK_OBJECT_MAP)
		for (uint32_t i = 0; i < o->via.map.size; i++) {
			const msgpack_object_kv *kv = &o->via.map.ptr[i];

			(void)fputs(i > 0 ? ", " : "", stdout);
			print_text(kv->key.via.str.ptr, kv->key.via.str.size);
			(void)putchar(' ');
			print_field(&kv->key, &kv->val);
		}
	else
		print_value(o, key_money(key));
}

void
print_object(const msgpack_object *map)
{
	uint32_t widest = 0;

	if (map->type != MSGPACK_OBJECT_MAP)
		return;
	for (uint32_t i = 0; i < map->via.map.size; i++) {
		const msgpack_object *key = &map->via.map.ptr[i].key;

		if (key->type == MSGPACK_OBJECT_STR && key->via.str.size > widest)
			widest = key->via.str.size;
	}
	for (uint32_t i = 0; i < map->via.map.size; i++) {
		const msgpack_object_kv *kv = &map->via.map.ptr[i];

		if (kv->key.type != MSGPACK_OBJECT_STR)
			continue;
		print_text(kv->key.via.str.ptr, kv->key.via.str.size);
		(void)printf("%*s", (int)(widest - kv->key.via.str.size) + 2, "");
		print_field(&kv->key, &kv->val);
		(void)printf("\n");
	}
}

/* A table's cell, as text in a buffer that grows no more: cells are short. */
struct cell {
	char text[160];
};

static void
cell_fill(struct cell *cell, const char *key, const msgpack_object *o)
{
	char money[MONEY_TEXT_MAX];
	struct tm tm;
	int64_t v;
	time_t t;

	(void)snprintf(cell->text, sizeof cell->text, "-");
	if (o == NULL)
		return;
	if (o->type == MSGPACK_OBJECT_STR) {
		if (proto_text_ok(o->via.str.ptr, o->via.str.size))
			(void)snprintf(cell->text, sizeof cell->text, "%.*s",
			    (int)o->via.str.size, o->via.str.ptr);
	} else if (o->type == MSGPACK_OBJECT_NIL && strcmp(key, "expires_at") == 0)
		(void)snprintf(cell->text, sizeof cell->text, "never");
	else if (proto_int(o, &v) && print_is_money(key, strlen(key))) {
		(void)money_format(money, v);
		(void)snprintf(cell->text, sizeof cell->text, "%s", money);
	} else if (proto_int(o, &v) && strcmp(key, "expires_at") == 0) {
		t = (time_t)v;
		if (gmtime_r(&t, &tm) != NULL)
			(void)strftime(cell->text, sizeof cell->text, "%Y-%m-%dT%H:%M:%SZ", &tm);
	} else if (proto_int(o, &v))
		(void)snprintf(cell->text, sizeof cell->text, "%" PRId64, v);
}

void
print_table(const msgpack_object *array, const struct column *columns)
{
	uint32_t rows = array->via.array.size, n = 0;
	struct cell *cells;
	int width[16] = {0};

	while (n < 16 && columns[n].key != NULL)
		n++;
	cells = calloc((size_t)(rows + 1) * n, sizeof *cells);
	if (cells == NULL)
		return;
	for (uint32_t r = 0; r <= rows; r++)
		for (uint32_t c = 0; c < n; c++) {
			struct cell *cell = &cells[r * n + c];
			const struct column *col = &columns[c];

			if (r == 0)
				(void)snprintf(cell->text, sizeof cell->text, "%s", col->title);
			else
				cell_fill(cell, col->key,
				    proto_get(&array->via.array.ptr[r - 1], col->key));
			if ((int)strlen(cell->text) > width[c])
				width[c] = (int)strlen(cell->text);
		}
	for (uint32_t r = 0; r <= rows; r++)
		for (uint32_t c = 0; c < n; c++) {
			bool last = c + 1 == n;

			(void)printf("%*s%s", columns[c].right ? width[c] : last ? 0 : -width[c],
			    cells[r * n + c].text, last ? "\n" : "  ");
		}
	free(cells);
}

enum ctl_exit
print_pages(struct ctl *ctl, const struct command *c, const char *list_key,
    const struct column *columns)
{
	bool first = true;
	int64_t next = 0;

	if (ctl->json)
		(void)printf("[");
	while (next >= 0) {
		const msgpack_object *result = ctl_call(ctl, c, &next), *list;

		if (result == NULL)
			return ctl->exit;
		list = proto_get(result, list_key);
		next = proto_get_int(result, "next", -1);
		if (list == NULL || list->type != MSGPACK_OBJECT_ARRAY)
			break;
		if (!ctl->json && (list->via.array.size > 0 || (first && next < 0)))
			print_table(list, columns);
		for (uint32_t i = 0; ctl->json && i < list->via.array.size; i++) {
			(void)fputs(first && i == 0 ? "" : ",", stdout);
			print_json(&list->via.array.ptr[i]);
		}
		first = first && list->via.array.size == 0;
	}
	if (ctl->json)
		(void)printf("]\n");
	return CTL_DONE;
}
