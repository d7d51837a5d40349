/*
 * tollctl stats: the metrics by name.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "admin/tollctl.h"
#include "shm/money.h"

/* Counts as they are; seconds, credits and ratios travel in millionths. */
static void
print_number(const msgpack_object *family, int64_t v)
{
	char text[MONEY_TEXT_MAX];
	size_t len;
	const char *unit = proto_get_text(family, "unit", &len);

	if (len == 3 && memcmp(unit, "one", 3) == 0)
		(void)printf("%" PRId64, v);
	else {
		(void)money_format(text, v);
		(void)fputs(text, stdout);
	}
}

/* The members of a series: its labels, then its value, or count and sum. */
static void
json_series(const msgpack_object *family, const msgpack_object *s, bool bare)
{
	const msgpack_object *labels = proto_get(s, "labels");
	const char *sep = "";

	if (bare && proto_get(s, "value") != NULL) {
		print_number(family, proto_get_int(s, "value", 0));
		return;
	}
	(void)printf("{");
	for (uint32_t i = 0; labels != NULL && labels->type == MSGPACK_OBJECT_MAP &&
			     i < labels->via.map.size; i++) {
		(void)fputs(sep, stdout);
		print_json(&labels->via.map.ptr[i].key);
		(void)printf(":");
		print_json(&labels->via.map.ptr[i].val);
		sep = ",";
	}
	if (proto_get(s, "value") != NULL) {
		(void)printf("%s\"value\":", sep);
		print_number(family, proto_get_int(s, "value", 0));
	} else {
		(void)printf("%s\"count\":%" PRId64 ",\"sum\":", sep, proto_get_int(s, "count", 0));
		print_number(family, proto_get_int(s, "sum", 0));
	}
	(void)printf("}");
}

/* A family without labels is its number (or {"count","sum"}), else an array of series. */
static void
json_family(const msgpack_object *family)
{
	const msgpack_object *series = proto_get(family, "series");
	const msgpack_object *labels;
	uint32_t n;

	if (series == NULL || series->type != MSGPACK_OBJECT_ARRAY) {
		(void)printf("null");
		return;
	}
	n = series->via.array.size;
	labels = n == 1 ? proto_get(&series->via.array.ptr[0], "labels") : NULL;
	if (labels != NULL && labels->type == MSGPACK_OBJECT_MAP && labels->via.map.size == 0) {
		json_series(family, &series->via.array.ptr[0], true);
		return;
	}
	(void)printf("[");
	for (uint32_t i = 0; i < n; i++) {
		(void)fputs(i > 0 ? "," : "", stdout);
		json_series(family, &series->via.array.ptr[i], false);
	}
	(void)printf("]");
}

static void
text_family(const msgpack_object *family)
{
	const msgpack_object *series = proto_get(family, "series");
	size_t name_len;
	const char *name = proto_get_text(family, "name", &name_len);

	for (uint32_t i = 0; series != NULL && series->type == MSGPACK_OBJECT_ARRAY &&
			     i < series->via.array.size; i++) {
		const msgpack_object *s = &series->via.array.ptr[i];
		const msgpack_object *labels = proto_get(s, "labels");

		print_text(name, name_len);
		for (uint32_t k = 0; labels != NULL && labels->type == MSGPACK_OBJECT_MAP &&
				     k < labels->via.map.size; k++) {
			const msgpack_object *v = &labels->via.map.ptr[k].val;

			(void)printf(" ");
			if (v->type == MSGPACK_OBJECT_STR)
				print_text(v->via.str.ptr, v->via.str.size);
		}
		(void)printf("  ");
		if (proto_get(s, "value") != NULL)
			print_number(family, proto_get_int(s, "value", 0));
		else {
			(void)printf("count %" PRId64 " sum ", proto_get_int(s, "count", 0));
			print_number(family, proto_get_int(s, "sum", 0));
		}
		(void)printf("\n");
	}
}

static enum ctl_exit
stats(struct ctl *ctl, const struct command *c)
{
	const msgpack_object *result = ctl_call(ctl, c, NULL);

	if (result == NULL)
		return ctl->exit;
	if (ctl->json)
		(void)printf("{");
	for (uint32_t i = 0;
	     result->type == MSGPACK_OBJECT_ARRAY && i < result->via.array.size; i++) {
		const msgpack_object *family = &result->via.array.ptr[i];
		size_t len;
		const char *name = proto_get_text(family, "name", &len);

		if (!ctl->json) {
			text_family(family);
			continue;
		}
		(void)fputs(i > 0 ? "," : "", stdout);
		print_json_text(name, len);
		(void)printf(":");
		json_family(family);
	}
	if (ctl->json)
		(void)printf("}\n");
	return CTL_DONE;
}

const struct command cmd_stats = {
    "stats", "stats.get", "Print the daemon's metrics by name (as on /metrics).",
    {{0}},
    stats,
};
