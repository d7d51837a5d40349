/*
 * Goal:   a config that is made from a record is the one that was read, in a process that can read
 *         nothing; names keep their numbers; what cannot change stays; what did change is named.
 * Method: real files and variables, which are taken away before the record is read; configs one
 *         after the other over one table of names.
 * objs: daemon/config.o daemon/config_file.o daemon/config_text.o daemon/config_value.o
 * objs: daemon/config_jwt.o daemon/config_source.o daemon/config_record.o daemon/config_change.o daemon/buf.o
 * objs: daemon/utf8.o
 * objs: daemon/auth_scope.o daemon/config_check.o daemon/secret.o daemon/address.o daemon/log.o
 * objs: shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/config_change.h"
#include "daemon/config_record.h"
#include "daemon/config_source.h"

/* Stand-in: nothing is mapped here; "late" is opened by whoever reads a record, or not. */
struct tokenizer {
	const char *name;
};
static const struct tokenizer all[] = {{"estimate"}, {"o200k_base"}};

const struct tokenizer *
tokenizer_find(const char *name)
{
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		if (strcmp(all[i].name, name) == 0)
			return &all[i];
	return NULL;
}

const struct tokenizer *
tokenizer_open(const char *name, char *why, size_t why_size)
{
	const struct tokenizer *t = tokenizer_find(name);

	if (t == NULL)
		snprintf(why, why_size, "there is no such tokenizer");
	return t;
}

static char dir[] = "/tmp/test_config_change.XXXXXX";
static char path[64], key[64];
static FILE *quiet; /* what is said of them is test_config's */

static void
write_file(const char *name, const char *text)
{
	FILE *f = fopen(name, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static struct config *
load(const char *text)
{
	struct config *c;

	write_file(path, text);
	c = config_load(path, quiet);
	assert_non_null(c);
	return c;
}

#define MODEL(name, provider, more)                                                               \
	"model \"" name "\" { provider = {\"" provider "\"} price_prompt = 1 "                     \
	"price_completion = 2 " more "}\n"
#define PROVIDER(name, url) "provider \"" name "\" { base_url = \"" url "\" }\n"

static void
a_record_is_enough(void **state)
{
	int fd = config_record_new();
	struct stat st;
	struct config *c, *again;
	char *record;

	(void)state;
	setenv("TEST_URL", "http://127.0.0.1:1/v1", 1);
	write_file(key, "sk-secret\n");
	write_file(path, "provider \"p\" { base_url = \"${TEST_URL}\" api_key_file = \"${TEST_KEY}\" }\n"
	    MODEL("m", "p", "tokenizer = \"o200k_base\"")
	    MODEL("n", "p", "tokenizer = \"cl100k_base\"") "limits { requests_per_minute = 7 }\n");
	setenv("TEST_KEY", key, 1);
	c = config_record_load(fd, path, quiet);
	assert_non_null(c);
	assert_int_equal(write(fd, "x", 1), -1); /* sealed */
	unsetenv("TEST_URL");
	unsetenv("TEST_KEY");
	unlink(path);
	unlink(key);
	assert_int_equal(fstat(fd, &st), 0);
	record = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	again = config_record_read(fd, path, true, quiet);
	assert_non_null(again);
	assert_string_equal(again->provider[0].base_url[0], "http://127.0.0.1:1/v1");
	assert_string_equal(again->provider[0].api_key[0], "sk-secret");
	assert_int_equal(again->limits.requests_per_minute, 7);
	assert_ptr_equal(again->model[0].tokenizer, c->model[0].tokenizer);
	/* The one that was not there when it was read: by an estimate, here too. */
	assert_ptr_equal(again->model[1].tokenizer, &all[0]);
	assert_false(config_source_replayed());
	/* Cut anywhere, it is another config or none, and no process is the worse for it. */
	for (size_t len = 0; len < (size_t)st.st_size; len++) {
		int part = config_record_new();

		assert_int_equal(write(part, record, len), len);
		config_free(config_record_read(part, path, true, quiet));
		close(part);
	}
	munmap(record, (size_t)st.st_size);
	close(fd);
	config_free(c);
	config_free(again);
}

static void
names_keep_their_numbers(void **state)
{
	struct region_names *names = calloc(1, sizeof *names);
	struct config *c = load(PROVIDER("p", "http://a/v1") PROVIDER("q", "http://b/v1")
	    MODEL("m", "p", "") MODEL("n", "q", ""));

	(void)state;
	assert_null(config_place(c, names, true));
	assert_string_equal(c->model[1].name, "n");
	config_free(c);
	c = load(PROVIDER("r", "http://c/v1") PROVIDER("q", "http://b/v1")
	    "model \"o\" { provider = {\"q\", \"r\"} price_prompt = 1 price_completion = 2 }\n"
	    MODEL("n", "q", ""));
	/* Who may not enter new ones says so, and leaves it as it is. */
	assert_non_null(config_place(c, names, false));
	assert_string_equal(c->model[0].name, "o");
	assert_null(config_place(c, names, true));
	assert_int_equal(c->model_count, 3);
	assert_int_equal(c->provider_count, 3);
	assert_null(c->model[0].name);
	assert_null(c->provider[0].name);
	assert_string_equal(c->model[1].name, "n");
	assert_string_equal(c->model[2].name, "o");
	assert_string_equal(c->provider[2].name, "r");
	assert_int_equal(c->model[2].providers[0], 1);
	assert_int_equal(c->model[2].providers[1], 2);
	assert_int_equal(config_model(c, "o", 1), 2);
	assert_int_equal(config_model(c, "m", 1), -1);
	assert_int_equal(config_model(c, "", 0), -1);
	config_free(c);
	/* All are taken: a start forgets those that are not there, a reload refuses. */
	for (int i = 0; i < REGION_MODELS_MAX; i++)
		if (names->model[i][0] == '\0')
			snprintf(names->model[i], sizeof names->model[i], "former-%d", i);
	c = load(PROVIDER("p", "http://a/v1") MODEL("new", "p", ""));
	assert_non_null(strstr(config_place(c, names, true), "256 models"));
	config_names_forget(c, names);
	assert_null(config_place(c, names, true));
	assert_string_equal(c->model[0].name, "new");
	config_free(c);
	free(names);
}

static void
describe(const char *before, const char *after, const char *changed, const char *restart)
{
	struct config *now = load(before), *next = load(after);
	struct buf c = {0}, r = {0};

	config_carry(next, now, 1 << 20, &r);
	config_describe(next, now, &c);
	buf_add(&c, "", 1);
	buf_add(&r, "", 1);
	assert_string_equal(c.data, changed);
	assert_string_equal(r.data, restart);
	buf_free(&c);
	buf_free(&r);
	config_free(now);
	config_free(next);
}

static void
changes_are_named(void **state)
{
	(void)state;
	describe("", "", "", "");
	describe("workers = 2\nlisten = {\"127.0.0.1:1\"}\nlog_level = info\n",
	    "workers = 3\nlisten = {\"127.0.0.1:2\", \"[::1]:3\"}\nlog_level = debug\n"
	    "max_body = 9000000\nledger { max_holds = 9999 slice_tokens = 5 }\n",
	    "log_level\nledger: slice_tokens\n", "workers\nlisten\nmax_holds\nmax_body\n");
	describe("max_body = 2000\n", "", "max_body\n", "");
	describe("limits { tokens_per_minute = 1 }\n", "", "limits: tokens_per_minute\n", "");
	describe(PROVIDER("p", "http://a/v1") MODEL("m", "p", "") MODEL("gone", "p", ""),
	    PROVIDER("p", "http://b/v1") MODEL("m", "p", "price_request = 1") MODEL("new", "p", ""),
	    "model \"gone\" is gone\nprovider \"p\": base_url\nmodel \"m\": price_request\n"
	    "model \"new\" is new\n", "");
	describe("cors_origins = {\"https://a\", \"https://b\"}\n",
	    "cors_origins = {\"https://b\", \"https://a\"}\n", "cors_origins\n", "");
}

static void
a_key_file_counts_by_what_it_holds(void **state)
{
	char text[256];
	struct config *one, *two, *three;
	struct buf b = {0};

	(void)state;
	snprintf(text, sizeof text,
	    "provider \"p\" { base_url = \"http://a/v1\" api_key_file = \"%s\" }\n", key);
	write_file(key, "one\n");
	one = load(text);
	two = load(text);
	write_file(key, "two\n");
	three = load(text);
	config_describe(two, one, &b);
	assert_int_equal(b.len, 0);
	assert_true(config_same_provider(&one->provider[0], &two->provider[0]));
	config_describe(three, two, &b);
	buf_add(&b, "", 1);
	assert_string_equal(b.data, "provider \"p\": api_key_file\n");
	assert_false(config_same_provider(&two->provider[0], &three->provider[0]));
	buf_free(&b);
	config_free(one);
	config_free(two);
	config_free(three);
}

static void
the_last_reference_frees(void **state)
{
	struct config *c = load(""), *mine = config_ref(c);

	(void)state;
	assert_ptr_equal(c, mine);
	config_free(c);
	assert_int_equal(mine->refs, 0);
	config_free(mine);
	config_free(NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_record_is_enough),
	    cmocka_unit_test(names_keep_their_numbers),
	    cmocka_unit_test(changes_are_named),
	    cmocka_unit_test(a_key_file_counts_by_what_it_holds),
	    cmocka_unit_test(the_last_reference_frees),
	};
	int failed;

	assert_non_null(mkdtemp(dir));
	assert_non_null(quiet = fopen("/dev/null", "w"));
	snprintf(path, sizeof path, "%s/tolld.conf", dir);
	snprintf(key, sizeof key, "%s/key", dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	unlink(key);
	rmdir(dir);
	return failed;
}
