/*
 * Two looks at the daemon, and what went on between them.
 */
#include "admin/top.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct stream {
	char id[64]; /* its hold's name: who may only look is not told the stream's id */
	char account[TOP_NAME_MAX + 1], model[TOP_NAME_MAX + 1];
	int64_t tokens, cost;
	bool waiting;
};

struct model {
	char name[TOP_NAME_MAX + 1];
	int64_t tokens, credits; /* since the daemon began: of streams that ended, and under way */
	int64_t first[TOP_WINDOW][TOP_BUCKETS_MAX]; /* counts of the last looks, `at` the newest */
	bool listed; /* at the last look; a reload may have taken it away */
};

struct streams {
	struct stream *s;
	uint32_t count, cap;
};

struct top_past {
	uint64_t time_us;
	uint32_t looks, at;
	struct streams streams; /* by id */
	struct model *model;
	uint32_t models;
	int64_t bound[TOP_BUCKETS_MAX]; /* of buckets, in microseconds */
	uint32_t bounds;
};

/* What no daemon has; sums and rates of what one says nevertheless end here. */
#define MOST INT64_C(1000000000000000)

static const struct command stats_get = {.name = "top", .method = "stats.get"};
static const struct command stream_list = {.name = "top", .method = "stream.list"};

static uint64_t
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static int64_t
clamp(double n)
{
	return n <= (double)-MOST ? -MOST : n >= (double)MOST ? MOST : (int64_t)n;
}

static int64_t
plus(int64_t a, int64_t b)
{
	int64_t sum;

	if (__builtin_add_overflow(a, b, &sum) || sum > MOST || sum < -MOST)
		return a > 0 ? MOST : -MOST;
	return sum;
}

static int64_t
minus(int64_t a, int64_t b)
{
	return plus(a, b == INT64_MIN ? INT64_MAX : -b);
}

static enum ctl_exit
no_memory(void)
{
	(void)fprintf(stderr, "tollctl: out of memory\n");
	return CTL_REFUSED;
}

static void
copy_name(char to[static TOP_NAME_MAX + 1], const msgpack_object *map, const char *key)
{
	size_t len, out = 0;
	const char *text = proto_get_text(map, key, &len);

	for (size_t i = 0, n; i < len; i += n) {
		n = proto_utf8(text + i, len - i);
		if (n > 0 && out + n > TOP_NAME_MAX)
			break;
		if (n > 0 && proto_text_ok(text + i, n)) {
			memcpy(to + out, text + i, n);
			out += n;
		} else if (out < TOP_NAME_MAX) {
			to[out++] = '?';
			n = n == 0 ? 1 : n;
		}
	}
	to[out] = 0;
}

static struct model *
model_of(struct top_past *p, const char *name)
{
	struct model *m;

	for (uint32_t i = 0; i < p->models; i++)
		if (strcmp(p->model[i].name, name) == 0)
			return &p->model[i];
	m = realloc(p->model, (p->models + 1) * sizeof *m);
	if (m == NULL)
		return NULL;
	p->model = m;
	m += p->models++;
	memset(m, 0, sizeof *m);
	(void)snprintf(m->name, sizeof m->name, "%s", name);
	return m;
}

/* Counters. */

static void
take_buckets(struct top_past *p, struct model *m, const msgpack_object *series)
{
	const msgpack_object *b = proto_get(series, "buckets");

	for (uint32_t i = 0; b != NULL && b->type == MSGPACK_OBJECT_ARRAY &&
			     i < b->via.array.size && i <= p->bounds; i++)
		(void)proto_int(&b->via.array.ptr[i], &m->first[p->at][i]);
}

static void
take_bounds(struct top_past *p, const msgpack_object *family)
{
	const msgpack_object *b = proto_get(family, "bounds");

	p->bounds = 0;
	if (b == NULL || b->type != MSGPACK_OBJECT_ARRAY)
		return;
	while (p->bounds < b->via.array.size && p->bounds < TOP_BUCKETS_MAX - 1 &&
	       proto_int(&b->via.array.ptr[p->bounds], &p->bound[p->bounds]))
		p->bounds++;
}

static bool
is(const msgpack_object *map, const char *key, const char *value)
{
	size_t len;
	const char *text = proto_get_text(map, key, &len);

	return len == strlen(value) && memcmp(text, value, len) == 0;
}

/* One of the families that count here; false without memory. */
static bool
take_family(struct top_past *p, const msgpack_object *family)
{
	const msgpack_object *series = proto_get(family, "series");
	bool tokens = is(family, "name", "tolld_tokens_total");
	bool credits = is(family, "name", "tolld_credits_charged_total");
	bool first = is(family, "name", "tolld_time_to_first_token_seconds");

	if (!tokens && !credits && !first)
		return true;
	if (first)
		take_bounds(p, family);
	for (uint32_t i = 0; series != NULL && series->type == MSGPACK_OBJECT_ARRAY &&
			     i < series->via.array.size; i++) {
		const msgpack_object *s = &series->via.array.ptr[i];
		const msgpack_object *labels = proto_get(s, "labels");
		char name[TOP_NAME_MAX + 1];
		struct model *m;

		copy_name(name, labels, "model");
		if ((m = model_of(p, name)) == NULL)
			return false;
		m->listed = true;
		if (first)
			take_buckets(p, m, s);
		else if (credits)
			m->credits = plus(m->credits, proto_get_int(s, "value", 0));
		else if (is(labels, "kind", "completion"))
			m->tokens = plus(m->tokens, proto_get_int(s, "value", 0));
	}
	return true;
}

static enum ctl_exit
look_at_counters(struct ctl *ctl, struct top_past *p)
{
	const msgpack_object *result = ctl_call(ctl, &stats_get, NULL);

	if (result == NULL)
		return ctl->exit;
	for (uint32_t i = 0; result->type == MSGPACK_OBJECT_ARRAY && i < result->via.array.size; i++)
		if (!take_family(p, &result->via.array.ptr[i]))
			return no_memory();
	return CTL_DONE;
}

/* Streams. */

static bool
add_stream(struct streams *all, const msgpack_object *o)
{
	struct stream *s;
	size_t len;
	const char *id = proto_get_text(o, "hold", &len);

	if (all->count == all->cap) {
		uint32_t cap = all->cap == 0 ? 256 : 2 * all->cap;

		s = realloc(all->s, cap * sizeof *s);
		if (s == NULL)
			return false;
		all->s = s;
		all->cap = cap;
	}
	s = &all->s[all->count++];
	(void)snprintf(s->id, sizeof s->id, "%.*s", (int)len, id);
	copy_name(s->account, o, "account");
	copy_name(s->model, o, "model");
	s->tokens = proto_get_int(o, "metered", 0);
	s->cost = proto_get_int(o, "cost", 0);
	s->waiting = is(o, "state", "waiting");
	return true;
}

static enum ctl_exit
look_at_streams(struct ctl *ctl, struct streams *all)
{
	int64_t page = 0, next;

	for (;;) {
		const msgpack_object *result = ctl_call(ctl, &stream_list, &page);
		const msgpack_object *list;

		if (result == NULL)
			return ctl->exit;
		list = proto_get(result, "streams");
		for (uint32_t i = 0; list != NULL && list->type == MSGPACK_OBJECT_ARRAY &&
				     i < list->via.array.size; i++)
			if (!add_stream(all, &list->via.array.ptr[i]))
				return no_memory();
		next = proto_get_int(result, "next", -1);
		if (next <= page)
			return CTL_DONE;
		page = next;
	}
}

/* Working out. */

static int
by_id(const void *a, const void *b)
{
	return strcmp(((const struct stream *)a)->id, ((const struct stream *)b)->id);
}

static int
by_account(const void *a, const void *b)
{
	return strcmp(((const struct stream *)a)->account, ((const struct stream *)b)->account);
}

static int64_t
a_second(int64_t n, uint64_t us)
{
	return us == 0 || n <= 0 ? 0 : clamp((double)n * 1e6 / (double)us + 0.5);
}

/* The value below which `share` of the counts lie; -1: there are none.  Within its bucket they are
 * taken to lie evenly; what is above all bounds is told as the last one. */
static int64_t
quantile(const struct top_past *p, const int64_t *count, double share)
{
	int64_t total = 0, below = 0;
	double wanted;

	for (uint32_t i = 0; i <= p->bounds; i++)
		total = plus(total, count[i]);
	if (total <= 0 || p->bounds == 0)
		return -1;
	wanted = share * (double)total;
	for (uint32_t i = 0; i < p->bounds; i++) {
		double from = i == 0 ? 0 : (double)p->bound[i - 1];

		if ((double)plus(below, count[i]) >= wanted && count[i] > 0)
			return clamp(from + ((double)p->bound[i] - from) *
			    (wanted - (double)below) / (double)count[i]);
		below = plus(below, count[i]);
	}
	return clamp((double)p->bound[p->bounds - 1]);
}

/* What has come since the oldest look that is kept. */
static void
lately(const struct top_past *p, const struct model *m, int64_t *count)
{
	uint32_t oldest = p->looks < TOP_WINDOW ? 0 : (p->at + 1) % TOP_WINDOW;

	for (uint32_t i = 0; i <= p->bounds; i++)
		count[i] = plus(count[i], minus(m->first[p->at][i], m->first[oldest][i]));
}

static struct top_row *
row_of(struct top_table *t, const char *name)
{
	for (uint32_t i = 0; i < t->count; i++)
		if (strcmp(t->row[i].name, name) == 0)
			return &t->row[i];
	return NULL;
}

/* Without those that are gone and have no stream any more. */
static void
drop_gone(struct top *t)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < t->models.count; i++) {
		const struct top_row *r = &t->models.row[i];

		if (t->past->model[i].listed || r->streams + r->waiting > 0)
			t->models.row[n++] = *r;
	}
	t->models.count = n;
}

/* Rows of models, and of all together.  `before` has the totals of the former look, by index. */
static void
work_out_models(struct top *t, const int64_t (*before)[2], uint32_t known, uint64_t us)
{
	struct top_past *p = t->past;
	int64_t all_first[TOP_BUCKETS_MAX] = {0}, tokens = 0, credits = 0;

	for (uint32_t i = 0; i < p->models; i++) {
		struct model *m = &p->model[i];
		struct top_row *row = &t->models.row[i];
		int64_t first[TOP_BUCKETS_MAX] = {0};

		/* A model that was not there before came with all that it counted, and went with it. */
		bool both = i < known && m->listed;
		int64_t dt = both ? minus(m->tokens, before[i][0]) : 0;
		int64_t dc = both ? minus(m->credits, before[i][1]) : 0;

		lately(p, m, first);
		for (uint32_t k = 0; k <= p->bounds; k++)
			all_first[k] = plus(all_first[k], first[k]);
		tokens = plus(tokens, dt);
		credits = plus(credits, dc);
		row->tokens = a_second(dt, us);
		row->credits = a_second(dc, us);
		row->p50_us = quantile(p, first, 0.5);
		row->p99_us = quantile(p, first, 0.99);
	}
	t->all.tokens = a_second(tokens, us);
	t->all.credits = a_second(credits, us);
	t->all.p50_us = quantile(p, all_first, 0.5);
	t->all.p99_us = quantile(p, all_first, 0.99);
	drop_gone(t);
}

static bool
make_models(struct top *t, const struct streams *now)
{
	struct top_past *p = t->past;
	struct top_row *row;

	for (uint32_t i = 0; i < now->count; i++) {
		struct model *m = model_of(p, now->s[i].model);

		if (m == NULL)
			return false;
		m->tokens = plus(m->tokens, now->s[i].tokens);
		m->credits = plus(m->credits, now->s[i].cost);
	}
	row = realloc(t->models.row, (p->models + 1) * sizeof *row);
	if (row == NULL)
		return false;
	t->models.row = row;
	t->models.count = p->models;
	for (uint32_t i = 0; i < p->models; i++) {
		row[i] = (struct top_row){.p50_us = -1, .p99_us = -1};
		memcpy(row[i].name, p->model[i].name, sizeof row[i].name);
	}
	t->all.streams = t->all.waiting = 0;
	for (uint32_t i = 0; i < now->count; i++) {
		struct top_row *r = row_of(&t->models, now->s[i].model);

		*(now->s[i].waiting ? &r->waiting : &r->streams) += 1;
		*(now->s[i].waiting ? &t->all.waiting : &t->all.streams) += 1;
	}
	return true;
}

/* What each stream got since the former look, in its `tokens` and `cost`. */
static void
subtract(struct streams *now, const struct streams *before)
{
	uint32_t k = 0;

	for (uint32_t i = 0; i < now->count; i++) {
		struct stream *s = &now->s[i];

		while (k < before->count && strcmp(before->s[k].id, s->id) < 0)
			k++;
		if (k < before->count && strcmp(before->s[k].id, s->id) == 0) {
			s->tokens = minus(s->tokens, before->s[k].tokens);
			s->cost = minus(s->cost, before->s[k].cost);
		}
	}
}

/* `now` in the order of accounts. */
static bool
work_out_accounts(struct top *t, const struct streams *now, uint64_t us)
{
	struct top_row *row = realloc(t->accounts.row, (now->count + 1) * sizeof *row), *r = NULL;

	if (row == NULL)
		return false;
	t->accounts.row = row;
	t->accounts.count = 0;
	for (uint32_t i = 0; i < now->count; i++) {
		const struct stream *s = &now->s[i];

		if (r == NULL || strcmp(r->name, s->account) != 0) {
			r = &row[t->accounts.count++];
			*r = (struct top_row){.p50_us = -1, .p99_us = -1};
			memcpy(r->name, s->account, sizeof r->name);
		}
		*(s->waiting ? &r->waiting : &r->streams) += 1;
		r->tokens = plus(r->tokens, s->tokens);
		r->credits = plus(r->credits, s->cost);
	}
	for (uint32_t i = 0; i < t->accounts.count; i++) {
		row[i].tokens = a_second(row[i].tokens, us);
		row[i].credits = a_second(row[i].credits, us);
	}
	return true;
}

static bool
work_out(struct top *t, const struct streams *now, const int64_t (*before)[2], uint32_t known,
    uint64_t us)
{
	struct streams mine = {malloc((now->count + 1) * sizeof *now->s), now->count, 0};
	bool good = mine.s != NULL && make_models(t, now);

	if (good) {
		work_out_models(t, before, known, us);
		if (now->count > 0)
			memcpy(mine.s, now->s, now->count * sizeof *now->s);
		subtract(&mine, &t->past->streams);
		qsort(mine.s, mine.count, sizeof *mine.s, by_account);
		good = work_out_accounts(t, &mine, us);
	}
	free(mine.s);
	return good;
}

enum ctl_exit
top_look(struct ctl *ctl, struct top *t)
{
	struct top_past *p = t->past != NULL ? t->past : calloc(1, sizeof *p);
	struct streams now = {NULL, 0, 0};
	enum ctl_exit e;
	int64_t (*before)[2];
	uint64_t at_us, us;
	uint32_t known, was;

	if (p == NULL)
		return no_memory();
	t->past = p;
	known = p->models;
	before = malloc((known + 1) * sizeof *before);
	if (before == NULL)
		return no_memory();
	was = p->at;
	p->at = p->looks % TOP_WINDOW;
	for (uint32_t i = 0; i < known; i++) {
		struct model *m = &p->model[i];

		before[i][0] = m->tokens;
		before[i][1] = m->credits;
		m->tokens = m->credits = 0;
		m->listed = false;
		/* As it was, unless it is told anew: not what stands there from TOP_WINDOW looks ago. */
		if (was != p->at)
			memcpy(m->first[p->at], m->first[was], sizeof m->first[was]);
	}
	at_us = now_us();
	us = p->looks > 0 ? at_us - p->time_us : 0;
	e = look_at_counters(ctl, p);
	if (e == CTL_DONE)
		e = look_at_streams(ctl, &now);
	if (e == CTL_DONE && now.count > 0)
		qsort(now.s, now.count, sizeof *now.s, by_id);
	if (e == CTL_DONE && !work_out(t, &now, before, known, us))
		e = no_memory();
	free(before);
	free(p->streams.s);
	p->streams = now;
	p->time_us = at_us;
	p->looks++;
	return e;
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(((const struct top_row *)a)->name, ((const struct top_row *)b)->name);
}

/* The greater first, those that are equal by name. */
static int
compare(const void *a, const void *b, int64_t x, int64_t y)
{
	return x != y ? (x < y) - (x > y) : compare_names(a, b);
}

static int
compare_tokens(const void *a, const void *b)
{
	return compare(a, b, ((const struct top_row *)a)->tokens, ((const struct top_row *)b)->tokens);
}

static int
compare_credits(const void *a, const void *b)
{
	return compare(a, b, ((const struct top_row *)a)->credits,
	    ((const struct top_row *)b)->credits);
}

static int
compare_streams(const void *a, const void *b)
{
	return compare(a, b, ((const struct top_row *)a)->streams,
	    ((const struct top_row *)b)->streams);
}

void
top_sort(struct top *t, enum top_order order)
{
	static int (*const by[TOP_ORDERS])(const void *, const void *) = {
	    [TOP_BY_TOKENS] = compare_tokens,
	    [TOP_BY_CREDITS] = compare_credits,
	    [TOP_BY_STREAMS] = compare_streams,
	    [TOP_BY_NAME] = compare_names,
	};

	if (t->models.count > 0)
		qsort(t->models.row, t->models.count, sizeof *t->models.row, by[order]);
	if (t->accounts.count > 0)
		qsort(t->accounts.row, t->accounts.count, sizeof *t->accounts.row, by[order]);
}

void
top_free(struct top *t)
{
	if (t->past != NULL) {
		free(t->past->streams.s);
		free(t->past->model);
	}
	free(t->past);
	free(t->models.row);
	free(t->accounts.row);
	memset(t, 0, sizeof *t);
}
