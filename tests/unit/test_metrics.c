/*
 * Goal:   what is counted anywhere shows on /metrics, exactly and in Prometheus' text format.
 * Method: two processes' words in an anonymous region; every line of the exposition is parsed and
 *         checked against the format's rules, some against their values.
 * objs: daemon/metrics.o daemon/metrics_print.o daemon/buf.o daemon/utf8.o
 * objs: shm/region.o shm/ring.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/metrics_table.h"
#include "shm/journal_record.h"
#include "shm/ledger.h"

static struct region region;
static struct config config;

static int
setup(void **state)
{
	static char model[] = "gpt-4o-mini", odd[] = "odd\"name\\with\nbreaks";
	static char provider[] = "openai";
	const struct region_dims dims = {.workers = 2, .max_accounts = 64, .max_keys = 64,
	    .max_holds = 50, .ring_records = 16, .ring_arena = 4096};

	(void)state;
	assert_int_equal(region_anonymous(&region, &dims), 0);
	memset(&config, 0, sizeof config);
	config.model_count = 2;
	config.model[0].name = model;
	config.model[1].name = odd;
	config.provider_count = 1;
	config.provider[0].name = provider;
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	region_unmap(&region);
	return 0;
}

static char *
print(void)
{
	struct buf b = {0};

	metrics_print(&b, &region, &config);
	buf_add(&b, "", 1);
	assert_false(b.failed);
	return b.data;
}

/* The value of exactly this series, as text; NULL if it is not there. */
static const char *
value_of(const char *text, const char *series)
{
	static char value[64];
	size_t n = strlen(series);

	for (const char *p = text; p != NULL && *p != '\0'; p = strchr(p, '\n'), p += p != NULL)
		if (strncmp(p, series, n) == 0 && p[n] == ' ') {
			(void)snprintf(value, sizeof value, "%.*s", (int)strcspn(p + n + 1, "\n"),
			    p + n + 1);
			return value;
		}
	return NULL;
}

#define assert_series(text, series, want)                                                          \
	do {                                                                                       \
		assert_non_null(value_of(text, series));                                           \
		assert_string_equal(value_of(text, series), want);                                 \
	} while (0)

/* Families do not overlap in the words. */
static void
words_are_apart(void **state)
{
	static uint8_t used[METRICS_WORDS];

	(void)state;
	for (int id = 0; id < M_FAMILIES; id++) {
		const struct metrics_family *f = &metrics_families[id];

		assert_non_null(f->name);
		/* One gauge has a word: the keeper's count of frozen accounts. */
		if (f->type == METRIC_GAUGE && id != M_ACCOUNTS_FROZEN)
			continue;
		for (uint32_t w = 0; w < metrics_count(f) * metrics_width(f); w++) {
			assert_true(f->base + w < metrics_words_used);
			assert_int_equal(used[f->base + w]++, 0);
		}
	}
	for (uint32_t w = 0; w < metrics_words_used; w++)
		assert_int_equal(used[w], 1);
}

static void
sums_all_processes(void **state)
{
	char *text;

	(void)state;
	metrics_init(&region, PROC_WORKER);
	metrics_request(ROUTE_SEND, 200);
	metrics_request(ROUTE_SEND, 418);
	metrics_stream(0, OUTCOME_STOP, 1500000);
	metrics_tokens(0, TOKENS_COMPLETION, 300);
	metrics_charged(0, 1, 0);
	metrics_charged(1, 2500000, 7);
	metrics_reserve(RESERVE_SHORT);
	metrics_upstream(0, 3, 4000);
	metrics_init(&region, PROC_WORKER + 1);
	metrics_request(ROUTE_SEND, 200);
	metrics_charged(0, INT64_C(123456789), 1000000);
	metrics_defect(0, DEFECT_JSON);
	metrics_defect(63, DEFECT_UTF8);
	metrics_upstream_error(99, UPSTREAM_IDLE_TIMEOUT);
	metrics_init(&region, PROC_KEEPER);
	metrics_commit(260, 3);
	metrics_init(&region, PROC_MASTER);
	metrics_restart();
	text = print();
	assert_series(text, "tolld_requests_total{route=\"/chat/send\",code=\"200\"}", "2");
	assert_series(text, "tolld_requests_total{route=\"/chat/send\",code=\"other\"}", "1");
	assert_null(value_of(text, "tolld_requests_total{route=\"/chat/send\",code=\"402\"}"));
	assert_series(text, "tolld_streams_total{model=\"gpt-4o-mini\",outcome=\"stop\"}", "1");
	assert_series(text, "tolld_streams_total{model=\"gpt-4o-mini\",outcome=\"credit\"}", "0");
	assert_series(text, "tolld_tokens_total{model=\"gpt-4o-mini\",kind=\"completion\"}", "300");
	assert_series(text, "tolld_credits_charged_total{model=\"gpt-4o-mini\"}", "123.45679");
	assert_series(text,
	    "tolld_credits_charged_total{model=\"odd\\\"name\\\\with\\nbreaks\"}", "2.5");
	assert_series(text, "tolld_credits_uncollected_total", "1.000007");
	assert_series(text, "tolld_reserve_total{result=\"short\"}", "1");
	assert_series(text, "tolld_upstream_bytes_total{provider=\"openai\"}", "4000");
	assert_series(
	    text, "tolld_stream_defects_total{provider=\"openai\",kind=\"json\"}", "1");
	/* A number that no provider has now is not shown; one that never can be is "other". */
	assert_null(strstr(text, "kind=\"utf8\"} 1"));
	assert_series(
	    text, "tolld_upstream_errors_total{provider=\"other\",kind=\"idle_timeout\"}", "1");
	assert_null(value_of(text, "tolld_upstream_chunks_total{provider=\"other\"}"));
	assert_series(text, "tolld_worker_restarts_total", "1");
	assert_series(text, "tolld_journal_commit_seconds_sum", "0.00026");
	assert_series(text, "tolld_build_info{version=\"" TOLLD_VERSION "\"}", "1");
	free(text);
}

static void
histograms_are_cumulative(void **state)
{
	char *text;

	(void)state;
	metrics_init(&region, PROC_WORKER);
	metrics_first_token(0, 10000); /* a bound belongs to its bucket */
	metrics_first_token(0, 10001);
	metrics_first_token(0, 400000000);
	metrics_drift(100, 100);
	metrics_drift(1, 0); /* says nothing */
	metrics_drift(4, 1);
	text = print();
#define TTFT "tolld_time_to_first_token_seconds"
	assert_series(text, TTFT "_bucket{model=\"gpt-4o-mini\",le=\"0.01\"}", "1");
	assert_series(text, TTFT "_bucket{model=\"gpt-4o-mini\",le=\"0.025\"}", "2");
	assert_series(text, TTFT "_bucket{model=\"gpt-4o-mini\",le=\"60\"}", "2");
	assert_series(text, TTFT "_bucket{model=\"gpt-4o-mini\",le=\"+Inf\"}", "3");
	assert_series(text, TTFT "_count{model=\"gpt-4o-mini\"}", "3");
	assert_series(text, TTFT "_sum{model=\"gpt-4o-mini\"}", "400.020001");
	assert_series(text, "tolld_token_count_drift_bucket{le=\"0.99\"}", "0");
	assert_series(text, "tolld_token_count_drift_bucket{le=\"1\"}", "1");
	assert_series(text, "tolld_token_count_drift_bucket{le=\"+Inf\"}", "2");
	assert_series(text, "tolld_token_count_drift_sum", "5");
	free(text);
}

static void
gauges_say_what_is(void **state)
{
	char *text;

	(void)state;
	atomic_store(&region.h->accounts, 3);
	atomic_store(&region.h->journal_ok, 1);
	atomic_store(&region_proc(&region, PROC_WORKER)->pid, 77);
	atomic_store(&region_proc(&region, PROC_WORKER)->streams, 5);
	atomic_store(&region_proc(&region, PROC_WORKER + 1)->streams, 9); /* dead */
	atomic_store(&hold_at(&region, 11)->state, HOLD_WORD(4, HOLD_HELD));
	atomic_store(&hold_at(&region, 12)->state, HOLD_WORD(4, HOLD_EXTENDING));
	atomic_store(&hold_at(&region, 0)->state, HOLD_WORD(4, HOLD_CREDITING));
	text = print();
	assert_series(text, "tolld_accounts", "3");
	assert_series(text, "tolld_journal_ok", "1");
	assert_series(text, "tolld_streams_active", "5");
	assert_series(text, "tolld_holds_open", "2");
	assert_series(text, "tolld_worker_up{worker=\"1\"}", "1");
	assert_series(text, "tolld_worker_up{worker=\"2\"}", "0");
	assert_null(value_of(text, "tolld_worker_up{worker=\"3\"}"));
	free(text);
}

/* HELP, TYPE and then the family's series and no others; no series twice; all as they should. */
static void
keeps_the_format(void **state)
{
	char *text, *line, *rest, family[128] = "", type[32] = "";
	const char *seen[4096];
	size_t n = 0, families = 0;

	(void)state;
	metrics_init(&region, PROC_WORKER);
	for (int r = 0; r < ROUTE_COUNT; r++)
		for (int s = 100; s < 600; s++)
			metrics_request((enum route_id)r, s);
	for (unsigned m = 0; m < 300; m++)
		metrics_first_token(m, 1000ull * m);
	text = print();
	for (line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
		size_t name_len = strcspn(line, "{ "), len = strlen(family);
		char *value = strrchr(line, ' ');

		if (strncmp(line, "# HELP ", 7) == 0) {
			assert_int_equal(sscanf(line, "# HELP %127s", family), 1);
			families++;
			continue;
		}
		if (strncmp(line, "# TYPE ", 7) == 0) {
			char again[128];

			assert_int_equal(sscanf(line, "# TYPE %127s %31s", again, type), 2);
			assert_string_equal(again, family);
			continue;
		}
		assert_true(strncmp(line, family, len) == 0);
		if (strcmp(type, "histogram") == 0)
			assert_true(strncmp(line + len, "_bucket", 7) == 0 ||
				    strncmp(line + len, "_sum", 4) == 0 ||
				    strncmp(line + len, "_count", 6) == 0);
		else
			assert_int_equal(name_len, len);
		assert_int_equal(strcmp(type, "counter") == 0,
		    strncmp(line + name_len - 6, "_total", 6) == 0);
		assert_non_null(value);
		assert_int_equal(strspn(value + 1, "0123456789."), strlen(value + 1));
		*value = '\0';
		for (size_t i = 0; i < n; i++)
			assert_string_not_equal(seen[i], line);
		assert_true(n < 4096);
		seen[n++] = line;
	}
	assert_int_equal(families, M_FAMILIES);
	free(text);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(words_are_apart),
	    cmocka_unit_test_setup_teardown(sums_all_processes, setup, teardown),
	    cmocka_unit_test_setup_teardown(histograms_are_cumulative, setup, teardown),
	    cmocka_unit_test_setup_teardown(gauges_say_what_is, setup, teardown),
	    cmocka_unit_test_setup_teardown(keeps_the_format, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
