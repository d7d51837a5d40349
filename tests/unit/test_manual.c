/*
 * Goal:   whatever may stand in a config is in its manual and in the example that is shipped, and
 *         nothing else is in the manual.
 * Method: the tables that the parser goes by are held against docs/man/tolld.conf.5, section by
 *         section and in both directions, and against etc/tolld.conf.  The tokenizers are stand-ins.
 * objs: daemon/config_source.o daemon/config.o daemon/config_file.o daemon/config_text.o daemon/config_value.o
 * objs: daemon/config_jwt.o daemon/auth_scope.o daemon/config_check.o daemon/secret.o daemon/address.o daemon/log.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config.h"
#include "daemon/config_file.h"

#define MANUAL "docs/man/tolld.conf.5"
#define EXAMPLE "etc/tolld.conf"

const struct tokenizer *
tokenizer_open(const char *name, char *why, size_t why_size)
{
	(void)name;
	snprintf(why, why_size, "there is no such tokenizer");
	return NULL;
}

const struct tokenizer *
tokenizer_find(const char *name)
{
	(void)name;
	return NULL;
}

static char *
read_file(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = calloc(1, 1 << 20);
	if (!f)
		fail_msg("%s: run from the project's folder", path);
	assert_true(fread(text, 1, (1 << 20) - 1, f) > 0);
	fclose(f);
	return text;
}

/* Does a line of text[0..len) begin with `start`, and does a blank or its end follow? */
static bool
has_line(const char *text, size_t len, const char *start)
{
	size_t n = strlen(start);
	for (const char *p = text; p && p < text + len; p = strchr(p, '\n')) {
		p += *p == '\n';
		if (strncmp(p, start, n) == 0 && strchr(" \n", p[n]))
			return true;
	}
	return false;
}

/* The manual's part about a section: from its heading to the next one. */
static const char *
part(const char *manual, const char *section, size_t *len)
{
	char heading[64];
	const char *start, *end, *other;
	snprintf(heading, sizeof(heading), "\n.Ss %s\n", *section ? section : "Top level");
	start = strstr(manual, heading);
	if (!start)
		fail_msg("%s: section %s is missing", MANUAL, section);
	start += strlen(heading);
	end = strstr(start, "\n.Sh ");
	other = strstr(start, "\n.Ss ");
	assert_non_null(end);
	*len = (size_t)((other && other < end ? other : end) - start);
	return start;
}

static void
test_all_keys_are_told(void **state)
{
	char *manual = read_file(MANUAL), item[80];
	int missing = 0;
	(void)state;
	for (const struct config_shape *s = config_shapes; s->section; s++) {
		size_t len;
		const char *text = part(manual, s->section, &len);
		for (const struct config_key *k = s->keys; k->name; k++) {
			snprintf(item, sizeof(item), ".It Cm %s", k->name);
			if (has_line(text, len, item))
				continue;
			print_error(
			    "%s: %s of section \"%s\" is missing\n", MANUAL, k->name, s->section);
			missing++;
		}
	}
	free(manual);
	assert_int_equal(missing, 0);
}

static void
test_nothing_else_is_told(void **state)
{
	char *manual = read_file(MANUAL);
	int items = 0, keys = 0;
	(void)state;
	for (const char *p = manual; (p = strstr(p, "\n.It Cm ")); p++)
		items++;
	for (const struct config_shape *s = config_shapes; s->section; s++)
		for (const struct config_key *k = s->keys; k->name; k++)
			keys++;
	free(manual);
	assert_int_equal(items, keys);
}

/* "key =" at the start of a line, but for blanks and '#'. */
static bool
is_shown(const char *example, const char *key)
{
	size_t n = strlen(key);
	for (const char *p = example; p; p = strchr(p, '\n')) {
		p += strspn(p, "\n");
		p += strspn(p, "# \t");
		if (strncmp(p, key, n) == 0 && p[n + strspn(p + n, " ")] == '=')
			return true;
	}
	return false;
}

static void
test_the_example_has_all(void **state)
{
	char *example = read_file(EXAMPLE);
	int missing = 0;
	(void)state;
	for (const struct config_shape *s = config_shapes; s->section; s++)
		for (const struct config_key *k = s->keys; k->name; k++)
			if (!is_shown(example, k->name)) {
				print_error("%s: %s is missing\n", EXAMPLE, k->name);
				missing++;
			}
	free(example);
	assert_int_equal(missing, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_all_keys_are_told),
	    cmocka_unit_test(test_nothing_else_is_told),
	    cmocka_unit_test(test_the_example_has_all),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
