/*
 * Goal:   a provider that fails is left alone, and tried again by one call at a time; what its
 *         failures mean, how long to wait and what the client is told follow the document's table.
 * Method: virtual time; every kind and status.
 * objs: daemon/breaker.o daemon/retry.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "daemon/breaker.h"
#include "daemon/retry.h"

#define S UINT64_C(1000000)

static const struct breaker_policy policy = {3, 10 * S};

static void
opens_after_failures_in_a_row(void **state)
{
	struct breaker b = {0};

	(void)state;
	for (int i = 0; i < 2; i++)
		assert_false(breaker_failed(&b, &policy, S));
	breaker_worked(&b);
	for (int i = 0; i < 2; i++)
		assert_false(breaker_failed(&b, &policy, S));
	assert_true(breaker_allows(&b, S));
	assert_true(breaker_failed(&b, &policy, S));
	assert_int_equal(breaker_state(&b, S), BREAKER_OPEN);
	assert_false(breaker_allows(&b, S));
	assert_int_equal(breaker_until(&b, S), 11 * S);
	/* Calls that were under way say nothing new: its time is not longer by them. */
	assert_false(breaker_failed(&b, &policy, 5 * S));
	assert_false(breaker_allows(&b, 11 * S - 1));
	assert_true(breaker_allows(&b, 11 * S));
}

static void
one_probe_at_a_time(void **state)
{
	struct breaker b = {0};

	(void)state;
	for (int i = 0; i < 3; i++)
		breaker_failed(&b, &policy, 0);
	assert_int_equal(breaker_state(&b, 10 * S), BREAKER_HALF);
	breaker_begin(&b, 10 * S);
	assert_false(breaker_allows(&b, 10 * S));
	/* Its client left: another may try. */
	breaker_left(&b);
	assert_true(breaker_allows(&b, 10 * S));
	breaker_begin(&b, 10 * S);
	breaker_worked(&b);
	assert_int_equal(breaker_state(&b, 10 * S), BREAKER_CLOSED);
	assert_true(breaker_allows(&b, 10 * S));
	/* And it needs as many failures as ever. */
	assert_false(breaker_failed(&b, &policy, 10 * S));
}

static void
failed_probes_make_it_longer_up_to_a_bound(void **state)
{
	static const uint64_t seconds[] = {10, 20, 40, 80, 80, 80};
	struct breaker b = {0};
	uint64_t now = 0;

	(void)state;
	for (int i = 0; i < 2; i++)
		breaker_failed(&b, &policy, now);
	for (size_t i = 0; i < sizeof(seconds) / sizeof(*seconds); i++) {
		if (i > 0)
			breaker_begin(&b, now);
		assert_true(breaker_failed(&b, &policy, now));
		assert_int_equal(breaker_until(&b, now) - now, seconds[i] * S);
		now = breaker_until(&b, now);
	}
}

static void
zero_failures_never_open(void **state)
{
	static const struct breaker_policy never = {0, S};
	struct breaker b = {0};

	(void)state;
	for (int i = 0; i < 1000; i++)
		assert_false(breaker_failed(&b, &never, 0));
	assert_true(breaker_allows(&b, 0));
}

static void
statuses_mean_what_the_table_says(void **state)
{
	static const struct {
		int status;
		enum upstream_kind kind;
		enum retry_verdict verdict;
		bool blames;
		int told;
		bool final;
	} row[] = {
	    {301, UPSTREAM_STATUS, RETRY_OTHER, true, 502, false},
	    {400, UPSTREAM_STATUS, RETRY_NEVER, false, 502, true},
	    {401, UPSTREAM_AUTH, RETRY_OTHER, false, 502, true},
	    {402, UPSTREAM_AUTH, RETRY_OTHER, false, 502, true},
	    {403, UPSTREAM_AUTH, RETRY_OTHER, false, 502, true},
	    {404, UPSTREAM_STATUS, RETRY_OTHER, false, 502, false},
	    {405, UPSTREAM_STATUS, RETRY_OTHER, false, 502, false},
	    {408, UPSTREAM_STATUS, RETRY_HERE, false, 502, false},
	    {413, UPSTREAM_STATUS, RETRY_NEVER, false, 502, true},
	    {418, UPSTREAM_STATUS, RETRY_NEVER, false, 502, true},
	    {422, UPSTREAM_STATUS, RETRY_NEVER, false, 502, true},
	    {429, UPSTREAM_RATE_LIMIT, RETRY_HERE, false, 503, false},
	    {500, UPSTREAM_SERVER, RETRY_HERE, true, 502, false},
	    {501, UPSTREAM_SERVER, RETRY_OTHER, true, 502, false},
	    {503, UPSTREAM_SERVER, RETRY_HERE, true, 502, false},
	    {529, UPSTREAM_SERVER, RETRY_HERE, true, 502, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		assert_int_equal(retry_kind_of_status(row[i].status), row[i].kind);
		assert_int_equal(retry_verdict(row[i].kind, row[i].status), row[i].verdict);
		assert_int_equal(retry_blames(row[i].kind, row[i].status), row[i].blames);
		assert_int_equal(retry_http_status(row[i].kind), row[i].told);
		assert_int_equal(retry_is_final(row[i].kind, row[i].status), row[i].final);
	}
	assert_true(retry_is_final(UPSTREAM_TOO_LONG, 200));
	assert_false(retry_is_final(UPSTREAM_IDLE_TIMEOUT, 200));
	assert_int_equal(retry_verdict(UPSTREAM_CONNECT, 0), RETRY_HERE);
	assert_int_equal(retry_verdict(UPSTREAM_TLS, 0), RETRY_OTHER);
	assert_int_equal(retry_verdict(UPSTREAM_CONNECT_TIMEOUT, 0), RETRY_OTHER);
	assert_int_equal(retry_verdict(UPSTREAM_FIRST_TOKEN_TIMEOUT, 200), RETRY_OTHER);
	assert_int_equal(retry_verdict(UPSTREAM_TRUNCATED, 200), RETRY_HERE);
	assert_int_equal(retry_verdict(UPSTREAM_IDLE_TIMEOUT, 200), RETRY_NEVER);
	assert_int_equal(retry_verdict(UPSTREAM_STREAM_TIMEOUT, 200), RETRY_NEVER);
}

static void
every_kind_has_a_name_a_status_and_a_code(void **state)
{
	(void)state;
	for (int k = 0; k < UPSTREAM_KINDS; k++) {
		int status = retry_http_status((enum upstream_kind)k);

		assert_string_not_equal(retry_kind_text((enum upstream_kind)k), "unknown");
		for (int j = 0; j < k; j++)
			assert_string_not_equal(retry_kind_text((enum upstream_kind)k),
			    retry_kind_text((enum upstream_kind)j));
		assert_true(status == 502 || status == 503 || status == 504);
		assert_string_equal(retry_error_code((enum upstream_kind)k),
		    status == 502   ? "upstream_error"
			: status == 503 ? "overloaded"
					: "upstream_timeout");
		assert_int_equal(
		    strstr(retry_kind_text((enum upstream_kind)k), "timeout") != NULL,
		    status == 504);
	}
}

static void
delays_double_within_bounds(void **state)
{
	uint64_t whole = 250000;

	(void)state;
	for (unsigned n = 1; n < 40; n++) {
		assert_int_equal(retry_delay_us(n, 0), whole / 2);
		assert_in_range(retry_delay_us(n, UINT32_MAX), whole - whole / 1000, whole);
		assert_in_range(retry_delay_us(n, 1u << 31), whole * 7 / 10, whole * 8 / 10);
		if (whole < 8 * S)
			whole *= 2;
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(opens_after_failures_in_a_row),
	    cmocka_unit_test(one_probe_at_a_time),
	    cmocka_unit_test(failed_probes_make_it_longer_up_to_a_bound),
	    cmocka_unit_test(zero_failures_never_open),
	    cmocka_unit_test(statuses_mean_what_the_table_says),
	    cmocka_unit_test(every_kind_has_a_name_a_status_and_a_code),
	    cmocka_unit_test(delays_double_within_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
