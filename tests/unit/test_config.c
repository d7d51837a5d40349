/*
 * Goal:   every bad value in a config is named by file, line and key; every good one arrives.
 * Method: a table of small files and the faults that each must give, in order; whole files with
 *         all keys; the example that is shipped.  The tokenizers are stand-ins.
 * objs: daemon/config.o daemon/config_file.o daemon/config_text.o daemon/config_value.o
 * objs: daemon/config_jwt.o daemon/config_source.o daemon/config_change.o daemon/buf.o daemon/utf8.o daemon/auth_scope.o daemon/config_check.o daemon/secret.o daemon/address.o daemon/log.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/config.h"

struct tokenizer {
	const char *name;
};

const struct tokenizer *
tokenizer_open(const char *name, char *why, size_t why_size)
{
	/* cl100k_base is lost. */
	static const struct tokenizer all[] = {{"estimate"}, {"o200k_base"}};

	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		if (strcmp(all[i].name, name) == 0)
			return &all[i];
	snprintf(why, why_size, "there is no such tokenizer");
	return NULL;
}

const struct tokenizer *
tokenizer_find(const char *name)
{
	char why[64];

	return tokenizer_open(name, why, sizeof why);
}

static char path[] = "/tmp/test_config.XXXXXX";
static char *said; /* what the last load wrote */

static struct config *
load_bytes(const char *text, size_t len)
{
	size_t size;
	FILE *f = fopen(path, "w"), *errors;
	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	fclose(f);
	free(said);
	errors = open_memstream(&said, &size);
	struct config *c = config_load(path, errors);
	fclose(errors);
	return c;
}

static struct config *
load(const char *text)
{
	return load_bytes(text, strlen(text));
}

#define USER "user = \"\"\n"
#define PROVIDER "provider \"p\" { base_url = \"http://h/v1\" }\n"
#define PRICES " price_prompt = 1 price_completion = 2 "
#define MODEL "model \"m\" { provider = p" PRICES "}\n"

static const struct bad {
	const char *text;
	const char *faults; /* "LINE: KEY" for each, in order */
} bad[] = {
	/* Whole numbers. */
	{ "workers = 65", "1: workers" },
	{ "\n\nworkers = -1", "3: workers" },
	{ "workers = many", "1: workers" },
	{ "workers = 1.5", "1: workers" },
	{ "workers = \"\"", "1: workers" },
	{ "workers = 0x10", "1: workers" },
	{ "workers = 99999999999999999999", "1: workers" },
	{ "max_body = 1023", "1: max_body" },
	{ "max_body = 67108865", "1: max_body" },
	{ "max_body = 1M", "1: max_body" },
	{ "flush_ms_max = 1001", "1: flush_ms_max" },
	{ "drain_timeout = 86401", "1: drain_timeout" },
	{ "ledger {\n slice_tokens = 0\n}", "2: slice_tokens" },
	{ "ledger {\n hold_ttl = 0\n reconnect_grace = -1\n}", "2: hold_ttl|3: reconnect_grace" },
	{ "ledger { max_accounts = 134217729 }", "1: max_accounts" },
	{ "workers = 2\nledger {\n max_holds = 8\n}", "3: max_holds" },
	{ "journal {\n keep_days = 36501 }", "2: keep_days" },
	{ "journal { keep_days = 1.5 }", "1: keep_days" },
	{ "journal { keep = 1 }", "1: keep" },
	{ "history { enabled = perhaps }", "1: enabled" },
	{ "history {\n keep_days = 36501\n keep_sessions = -1 }", "2: keep_days|3: keep_sessions" },
	{ "history { keep = 1 }", "1: keep" },
	{ "history_tokens = 1.5", "1: history_tokens" },
	{ "limits { requests_per_minute = -5 }", "1: requests_per_minute" },
	{ "limits {\ntokens_per_minute = x\nconcurrent_streams = 1e3 }",
	    "2: tokens_per_minute|3: concurrent_streams" },
	{ "timeouts { connect = 0\nfirst_token = 0\nidle = 0\nstream = 0\nrequest = 0\n"
	  "header = 0 }",
	    "1: connect|2: first_token|3: idle|4: stream|5: request|6: header" },
	/* Tokens. */
	{ "jwt \"a\" {\n}", "1: algorithm|1: key_file|1: audience" },
	{ "jwt \"a\" {\n algorithm = none\n audience = us\n key_file = \"/etc/hostname\" }",
	    "2: algorithm" },
	{ "jwt \"a\" {\n algorithm = HS256\n audience = \"\"\n key_file = \"/nonesuch\" }",
	    "3: audience|4: key_file" },
	{ "jwt \"a\" { algorithm = RS256 audience = us\n key_file = \"/etc/passwd\" }",
	    "2: key_file" },
	{ "jwt \"a\" { algorithm = HS256 audience = us scope = {\"chat\",\n\"mint\"}\n"
	  "key_file = \"/etc/passwd\" }",
	    "2: scope" },
	{ "jwt \"a\" { algorithm = HS256 audience = us key_file = \"/etc/passwd\" }\n"
	  "jwt \"b\" { algorithm = HS256 audience = us\n key_file = \"/etc/passwd\" }",
	    "2: kid" },
	{ "jwt \"a\" { algorithm = HS256 audience = us key_file = \"/etc/passwd\"\n issuer = x }",
	    "2: issuer" },
	/* Words. */
	{ "log_format = xml", "1: log_format" },
	{ "log_level = loud", "1: log_level" },
	{ "default_model = nosuch", "1: default_model" },
	{ "state_dir = \"\"", "1: state_dir" },
	{ "runtime_dir = \"\"", "1: runtime_dir" },
	/* Money. */
	{ "ledger {\n overdraft = 0.1234567 }", "2: overdraft" },
	{ "ledger { overdraft = 1e3 }", "1: overdraft" },
	{ "ledger { overdraft = -1 }", "1: overdraft" },
	{ "ledger { overdraft = 9999999999999999 }", "1: overdraft" },
	{ PROVIDER "model m { provider = p\n price_prompt = 0,5 }", "3: syntax" },
	{ PROVIDER "model m { provider = p\n price_prompt = \"0,5\" price_completion = free }",
	    "3: price_prompt|3: price_completion" },
	{ PROVIDER "model m { provider = p " PRICES "\n price_request = 0.0000001\n"
	    "price_reasoning = -1\n price_cache_write = much }",
	    "3: price_request|4: price_reasoning|5: price_cache_write" },
	/* Addresses. */
	{ "listen = {\"127.0.0.1\"}", "1: listen" },
	{ "listen = {\"127.0.0.1:0\"}", "1: listen" },
	{ "listen = {\"127.0.0.1:65536\"}", "1: listen" },
	{ "listen = {\n\"127.0.0.1:80\",\n\"localhost:80\",\n\"::1:80\"}", "3: listen|4: listen" },
	{ "listen = {\"[::1\"}", "1: listen" },
	{ "listen = {\"[::1]8080\"}", "1: listen" },
	{ "listen = {\"unix:\"}", "1: listen" },
	{ "\nlisten = { }", "2: listen" },
	{ "listen = {\"127.0.0.1:80\", \"127.0.0.1:80\"}", "1: listen" },
	{ "listen = *:80", "1: syntax" },
	{ "admin_listen = 9464", "1: admin_listen" },
	/* URLs and origins. */
	{ "provider p { base_url = ftp://h }", "1: base_url" },
	{ "provider p { base_url = \"http://u:p@h\" }", "1: base_url" },
	{ "provider p { base_url = \"http://h/#x\" }", "1: base_url" },
	{ "provider p { base_url = \"http://h/?x\" }", "1: base_url" },
	{ "provider p { base_url = \"http://\" }", "1: base_url" },
	{ "provider p { base_url = \"http://h:99999/\" }", "1: base_url" },
	{ "provider p { base_url = \"http://a b/\" }", "1: base_url" },
	{ "cors_origins = {\"https://a\", \"https://b/path\"}", "1: cors_origins" },
	{ "cors_origins = {\"a.example\"}", "1: cors_origins" },
	{ "trusted_proxies = {\"10.0.0.0/33\"}", "1: trusted_proxies" },
	{ "trusted_proxies = {\"::1/129\"}", "1: trusted_proxies" },
	{ "trusted_proxies = {\"proxy.example\"}", "1: trusted_proxies" },
	{ "trusted_proxies = {\"10.0.0.0/\"}", "1: trusted_proxies" },
	{ "limits { unauthenticated_per_minute = -1 }", "1: unauthenticated_per_minute" },
	{ "first_sight { grant = -1 }", "1: grant" },
	{ "first_sight { grant = 100000000.000001 }", "1: grant" },
	{ "first_sight { overdraft = 1.0000001 }", "1: overdraft" },
	{ "first_sight {\nmax_accounts = -1\nmax_account = 5 }", "2: max_accounts|3: max_account" },
	{ "limits { ws_questions_per_minute = x }", "1: ws_questions_per_minute" },
	{ "timeouts { ws_idle = 0\nws_ping = -1 }", "1: ws_idle|2: ws_ping" },
	/* Providers. */
	{ "\nprovider p { }", "2: base_url" },
	{ "provider p {\n base_url = \"http://h\"\n dialect = soap }", "3: dialect" },
	{ "provider p { base_url = \"http://h\" retries = 11 }", "1: retries" },
	{ "provider p { base_url = \"http://h\" max_line = 4095 }", "1: max_line" },
	{ "provider p { base_url = \"http://h\" max_line = 8388609 }", "1: max_line" },
	{ "provider p { base_url = \"http://h\"\n api_key = \"${TEST_UNSET}\" }", "2: api_key" },
	{ "provider p { base_url = \"http://h\"\n api_key = ${TEST_UNSET} }", "2: api_key" },
	{ "provider p { base_url = \"http://h\"\n api_key = \"a b\" }", "2: api_key" },
	{ "provider p { base_url = \"http://h\"\n api_key_file = \"/nonexistent\" }",
	    "2: api_key_file" },
	{ "provider p { base_url = \"http://h\"\n api_key_file = \"/dev/null\" }",
	    "2: api_key_file" },
	{ "provider p { base_url = \"http://h\" api_key = a\n api_key_file = \"/etc/passwd\" }",
	    "2: api_key_file" },
	{ "provider p { base_url = {} }", "1: base_url" },
	{ "provider p {\nbase_url = {\"http://h/\",\n\"http://h\"} }", "3: base_url" },
	{ "provider p { base_url = {http://a, \"http://b/?x\"} }", "1: base_url" },
	{ "provider p { base_url = {http://1, http://2, http://3, http://4, http://5, http://6,\n"
	  "http://7, http://8, http://9} }", "2: base_url" },
	{ "provider p { base_url = http://h\napi_key = {a,\nb, a} }", "3: api_key" },
	{ "provider p { base_url = http://h\napi_key = {a, \"\"} }", "2: api_key" },
	{ "provider p { base_url = http://h\nca_file = /nonexistent }", "2: ca_file" },
	{ "provider p { base_url = http://h\nca_file = /dev/null }", "2: ca_file" },
	{ "provider p { base_url = http://h\ntls_verify = false }", "2: tls_verify" },
	{ "provider p { base_url = http://h breaker_seconds = 0 }", "1: breaker_seconds" },
	{ PROVIDER PROVIDER, "2: provider" },
	{ "provider \"\" { base_url = \"http://h\" }", "1: provider" },
	/* Models. */
	{ PROVIDER "\n\nmodel m { provider = p }", "4: price_prompt|4: price_completion" },
	{ PROVIDER "model m {" PRICES "}", "2: provider" },
	{ PROVIDER "model m {" PRICES "provider = {} }", "2: provider" },
	{ PROVIDER "model m {" PRICES "\nprovider = {p,\nq} }", "4: provider" },
	{ PROVIDER "model m {" PRICES "provider = {p, p} }", "2: provider" },
	{ PROVIDER MODEL "\n" MODEL, "4: model" },
	{ PROVIDER "model m { provider = p" PRICES "\ntokenizer = gpt2 }", "3: tokenizer" },
	{ PROVIDER "model m { provider = p" PRICES "\ncontext = 10\nmax_completion = 11 }",
	    "4: max_completion" },
	{ PROVIDER "model m { provider = p" PRICES "\nhidden_tokens = maybe }",
	    "3: hidden_tokens" },
	/* Keys that are not, and keys that are twice. */
	{ "\nworker = 1", "2: worker" },
	{ "nosuch = 1\nworkers = x\nledger {\n too = {1,2}\n}\nother = y",
	    "1: nosuch|2: workers|4: too|6: other" },
	{ "ledger { workers = 1 }", "1: workers" },
	{ "nosuch \"x\" {\n a = 1 }", "1: nosuch" },
	{ "include(\"/etc/passwd\")", "1: include" },
	{ "\"(entered)\" = 1", "1: (entered)" },
	{ "workers = 1\nworkers = 2", "2: workers" },
	{ "listen = {\"127.0.0.1:80\"}\nlisten = {\"127.0.0.1:81\"}", "2: listen" },
	{ "ledger { }\nledger { }", "2: ledger" },
	{ "ledger {\n hold_ttl = 1\n hold_ttl = 1 }", "3: hold_ttl" },
	/* Syntax. */
	{ "workers 5", "1: syntax" },
	{ "workers = \"5", "1: syntax" },
	{ "workers = '5\n'", "1: syntax" },
	{ "\nledger {\n hold_ttl = 1\n", "2: syntax" },
	{ "ledger { }\n}", "2: syntax" },
	{ "/* never closed\n\n", "1: syntax" },
	{ "workers = {1}", "1: syntax" },
	{ "provider { }", "1: syntax" },
	{ "user = \"\\400\"", "1: syntax" },
	{ "user = \"${HOME\"", "1: syntax" },
	{ "\nuser = \"\x01\"", "2: syntax" },
	{ "\ndefault_model = \"a\\nb\"", "2: default_model" },
	{ "\n\nuser = \"\xff\"", "3: syntax" },
	/* Lines are right after comments, wherever they stand. */
	{ "# one\n// two\n/* three\n four\n * five */ workers = x", "5: workers" },
	{ "/* a */ /* b\n */ /* c */\n# \" { ' /* \n\nworkers = x # \"\nmax_body = y",
	    "5: workers|6: max_body" },
	{ "listen = { \"127.0.0.1:80\", # one\n # {\n /* } */ \"x\" }\nworkers = x",
	    "3: listen|4: workers" },
	{ "ledger { # {\n # }\n}\nworkers = x", "4: workers" },
	/* What stands before a syntax error is checked as well. */
	{ "workers = x\nmax_body = { }\n", "1: workers|2: syntax" },
	{ "workers = x\nmax_body 5\n", "1: workers|2: syntax" },
};

/* Compare what was said with "LINE: KEY|LINE: KEY"; warnings are passed over. */
static void
assert_faults(const char *text, const char *want)
{
	char got[1024] = "";
	char *copy = strdup(said), *rest = copy, *line;
	while ((line = strsep(&rest, "\n")) && *line) {
		assert_memory_equal(line, path, strlen(path));
		char *fault = line + strlen(path) + 1;
		char *number_end = strchr(fault, ':');
		assert_non_null(number_end);
		char *key_end = strchr(number_end + 1, ':');
		assert_non_null(key_end);
		if (strstr(key_end, ": warning: "))
			continue;
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%.*s", *got ? "|" : "",
		    (int)(key_end - fault), fault);
	}
	free(copy);
	if (strcmp(got, want) != 0)
		print_message("file:\n%s\nsaid:\n%s", text, said);
	assert_string_equal(got, want);
}

static void
faults_are_named_by_line_and_key(void **state)
{
	(void)state;
	unsetenv("TEST_UNSET");
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct config *c = load(bad[i].text);
		assert_faults(bad[i].text, bad[i].faults);
		assert_null(c);
	}
}

static void
a_bad_file_leaves_nothing_behind_for_the_next(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_null(load(bad[i].text));
		struct config *c = load(USER PROVIDER MODEL);
		if (!c)
			print_message("after:\n%s\nsaid:\n%s", bad[i].text, said);
		assert_non_null(c);
		config_free(c);
	}
}

static void
missing_files_and_users(void **state)
{
	size_t size;
	char *text;
	FILE *errors = open_memstream(&text, &size);
	(void)state;
	assert_null(config_load("/nonexistent/tolld.conf", errors));
	fclose(errors);
	assert_string_equal(text, "/nonexistent/tolld.conf:1: file: cannot be read: "
	                          "No such file or directory\n");
	free(text);
	assert_null(load_bytes("user = \"\"\n\0workers = 1", 22));
	assert_faults("a NUL", "2: syntax");
	if (geteuid() == 0) {
		assert_null(load("\nuser = no-such-user"));
		assert_faults("no such user", "2: user");
	}
}

static void
defaults_are_the_contracts(void **state)
{
	(void)state;
	struct config *c = load("");
	assert_non_null(c);
	assert_string_equal(c->user, "toll");
	assert_string_equal(c->default_model, "");
	assert_in_range(c->workers, 1, 64);
	assert_int_equal(c->listen_count, 1);
	assert_string_equal(c->listen[0], "127.0.0.1:8080");
	assert_string_equal(c->admin_listen, "127.0.0.1:9464");
	assert_string_equal(c->state_dir, "/var/lib/tolld");
	assert_string_equal(c->runtime_dir, "/run/tolld");
	assert_int_equal(c->origin_count, 0);
	assert_int_equal(c->max_body, 1048576);
	assert_int_equal(c->flush_ms_max, 25);
	assert_int_equal(c->ledger.overdraft, 200000000);
	assert_int_equal(c->ledger.slice_tokens, 300);
	assert_int_equal(c->ledger.hold_ttl, 60);
	assert_int_equal(c->ledger.reconnect_grace, 10);
	assert_int_equal(c->ledger.max_accounts, 1048576);
	assert_int_equal(c->ledger.max_holds, 65536);
	assert_int_equal(c->limits.requests_per_minute, 0);
	assert_int_equal(c->first_sight.grant, 0);
	assert_int_equal(c->first_sight.overdraft, 0);
	assert_int_equal(c->first_sight.max_accounts, 1000);
	assert_true(c->history.enabled);
	assert_int_equal(c->history.keep_days, 365);
	assert_int_equal(c->history.keep_sessions, 1000);
	assert_int_equal(c->history_tokens, 4000);
	assert_int_equal(c->timeouts.connect, 10);
	assert_int_equal(c->timeouts.first_token, 60);
	assert_int_equal(c->timeouts.idle, 60);
	assert_int_equal(c->timeouts.stream, 300);
	assert_int_equal(c->timeouts.request, 60);
	assert_int_equal(c->timeouts.header, 10);
	assert_int_equal(c->timeouts.drain, 30);
	assert_int_equal(c->timeouts.ws_idle, 60);
	assert_int_equal(c->timeouts.ws_ping, 20);
	assert_int_equal(c->limits.ws_questions_per_minute, 10);
	assert_int_equal(c->model_count, 0);
	config_free(c);
}

static const char everything[] =
    "\xef\xbb\xbf" /* a byte order mark, and CR LF lines */
    "user = \"\"\r\nworkers = 3\r\ndefault_model = b\n"
    "listen = {\"0.0.0.0:80\", \"[::]:80\", unix:/run/x.sock}\nadmin_listen = \"\"\n"
    "state_dir = \"/s\" runtime_dir = '/r'\n"
    "cors_origins = {\"https://Chat.example\", \"http://[::1]:3000\"}\n"
    "max_body = 2048\nflush_ms_max = 0\nlog_format = json\nlog_level = \"debug\"\n"
    "drain_timeout = 5 history_tokens = 7 "
    "history { enabled = false keep_days = 8 keep_sessions = 9 }\n"
    "ledger { overdraft = 0.000001 slice_tokens = 10 hold_ttl = 1 reconnect_grace = 0\n"
    "  max_accounts = 10 max_holds = 100 }\n"
    "limits { requests_per_minute = 1 tokens_per_minute = 2 concurrent_streams = 3"
    "  ws_questions_per_minute = 0 }\n"
    "first_sight { grant = 100000000 overdraft = 0.5 max_accounts = 0 } "
    "timeouts { connect = 1 first_token = 2 idle = 3 stream = 4 request = 5 header = 6"
    "  ws_idle = 7 ws_ping = 8 }\n"
    "model \"b\" { provider = {q, \"p\"} upstream = \"up/b:7\" tokenizer = \"cl100k_base\"\n"
    "  price_prompt = 0.15 price_cached = \"0.075\" price_completion = 0.60\n"
    "  context = 1000 max_completion = 1000 hidden_tokens = true history_tokens = 6 }\n"
    "model \"m\" { provider = p price_prompt = 1 price_completion = 0 }\n"
    "provider \"p\" { dialect = anthropic base_url = \"https://h:8443/v1///\"\n"
    "  api_key = \"x-${TEST_KEY}-${TEST_UNSET:-none}\" retries = 0 }\n"
    "provider \"q\" { base_url = http://[::1]:11434 dialect = auto }\n"
    "provider \"r\" { base_url = {http://h, \"https://g/v1/\"} api_key = {'${TEST_KEY}', k2}\n"
    "  breaker_failures = 0 breaker_seconds = 3 max_line = 4096 }\n"
    "provider \"s\" { base_url = http://h api_key = \"\\${TEST_KEY}\" }\n";

static void
every_key_arrives(void **state)
{
	(void)state;
	setenv("TEST_KEY", "${HOME}\"k#", 1);
	struct config *c = load(everything);
	if (!c)
		print_message("%s", said);
	assert_non_null(c);
	assert_int_equal(c->workers, 3);
	assert_false(c->history.enabled);
	assert_int_equal(c->history.keep_days, 8);
	assert_int_equal(c->history.keep_sessions, 9);
	assert_int_equal(c->model[0].history_tokens, 6);
	assert_int_equal(c->model[1].history_tokens, 7);
	assert_string_equal(c->default_model, "b");
	assert_int_equal(c->listen_count, 3);
	assert_string_equal(c->listen[1], "[::]:80");
	assert_string_equal(c->listen[2], "unix:/run/x.sock");
	assert_string_equal(c->admin_listen, "");
	assert_string_equal(c->state_dir, "/s");
	assert_string_equal(c->runtime_dir, "/r");
	assert_int_equal(c->origin_count, 2);
	assert_string_equal(c->origins[0], "https://chat.example");
	assert_int_equal(c->max_body, 2048);
	assert_int_equal(c->flush_ms_max, 0);
	assert_int_equal(c->log_format, LOG_JSON);
	assert_int_equal(c->log_level, LOG_DEBUG);
	assert_int_equal(c->timeouts.drain, 5);
	assert_int_equal(c->ledger.overdraft, 1);
	assert_int_equal(c->ledger.max_holds, 100);
	assert_int_equal(c->limits.concurrent_streams, 3);
	assert_int_equal(c->first_sight.grant, 100000000 * INT64_C(1000000));
	assert_int_equal(c->first_sight.overdraft, 500000);
	assert_int_equal(c->first_sight.max_accounts, 0);
	assert_int_equal(c->limits.ws_questions_per_minute, 0);
	assert_int_equal(c->timeouts.header, 6);
	assert_int_equal(c->timeouts.ws_idle, 7);
	assert_int_equal(c->timeouts.ws_ping, 8);
	assert_int_equal(c->provider_count, 4);
	assert_int_equal(c->provider[0].dialect, DIALECT_ANTHROPIC);
	assert_string_equal(c->provider[0].base_url[0], "https://h:8443/v1");
	assert_string_equal(c->provider[0].api_key[0], "x-${HOME}\"k#-none");
	assert_int_equal(c->provider[0].retries, 0);
	assert_string_equal(c->provider[1].base_url[0], "http://[::1]:11434");
	assert_string_equal(c->provider[1].api_key[0], "");
	assert_int_equal(c->provider[1].retries, 2);
	assert_string_equal(c->provider[2].api_key[0], "${TEST_KEY}");
	assert_string_equal(c->provider[3].api_key[0], "${TEST_KEY}");
	assert_int_equal(c->provider[1].max_line, 1 << 20);
	assert_int_equal(c->provider[2].max_line, 4096);
	assert_int_equal(c->provider[2].base_urls, 2);
	assert_string_equal(c->provider[2].base_url[1], "https://g/v1");
	assert_int_equal(c->provider[2].api_keys, 2);
	assert_string_equal(c->provider[2].api_key[1], "k2");
	assert_int_equal(c->provider[2].breaker_failures, 0);
	assert_int_equal(c->provider[2].breaker_seconds, 3);
	assert_int_equal(c->provider[0].breaker_failures, 8);
	assert_int_equal(c->provider[0].breaker_seconds, 10);
	assert_int_equal(c->model_count, 2);
	assert_string_equal(c->model[0].upstream, "up/b:7");
	assert_int_equal(c->model[0].provider_count, 2);
	assert_int_equal(c->model[0].providers[0], 1);
	assert_int_equal(c->model[0].providers[1], 0);
	assert_string_equal(c->model[0].tokenizer->name, "estimate");
	assert_string_equal(c->model[1].tokenizer->name, "estimate");
	assert_int_equal(c->model[0].price.prompt, 150000);
	assert_int_equal(c->model[0].price.cached, 75000);
	assert_int_equal(c->model[0].price.completion, 600000);
	assert_true(c->model[0].hidden_tokens);
	assert_string_equal(c->model[1].upstream, "m");
	/* What is not said of prices is not said; the rest follows (shm/money.h). */
	assert_int_equal(c->model[1].price.cached, PRICE_UNSET);
	assert_int_equal(c->model[0].price.reasoning, PRICE_UNSET);
	assert_int_equal(config_model(c, "m", 1), 1);
	assert_int_equal(config_model(c, "mm", 2), -1);
	/* What is known and not there: a warning, and the file is good. */
	assert_non_null(strstr(said, ":17: tokenizer: warning: \"cl100k_base\": there is no such "
				     "tokenizer: model \"b\" is metered by an estimate"));
	size_t lines = 0;
	for (const char *p = said; (p = strchr(p, '\n')) != NULL; p++)
		lines++;
	/* Two of them send a key to another machine in the clear. */
	assert_non_null(strstr(said, ": base_url: warning: the key of provider \"r\" goes out"));
	assert_int_equal(lines, 3);
	config_free(c);
}

static void
keys_come_from_files(void **state)
{
	char key[] = "/tmp/test_config_key.XXXXXX", text[256];
	int fd = mkstemp(key);
	(void)state;
	assert_int_equal(write(fd, "sk-secret\n", 10), 10);
	close(fd);
	snprintf(text, sizeof(text),
	    USER "provider p { base_url = http://h api_key_file = \"%s\" }", key);
	struct config *c = load(text);
	assert_non_null(c);
	assert_string_equal(c->provider[0].api_key[0], "sk-secret");
	config_free(c);
	unlink(key);
}

static void
no_fault_shows_a_secret(void **state)
{
	(void)state;
	setenv("TEST_KEY", "sk secret", 1);
	assert_null(load("provider p { base_url = \"http://u:secret@h\" api_key = \"${TEST_KEY}\"\n"
	                 "retries = 99 }"));
	assert_null(strstr(said, "secret"));
}

static void
the_example_passes(void **state)
{
	char *text;
	size_t size;
	FILE *errors = open_memstream(&text, &size);
	(void)state;
	unsetenv("OPENAI_API_KEY");
	struct config *c = config_load("etc/tolld.conf", errors);
	fclose(errors);
	if (!c)
		print_message("%s", text);
	assert_non_null(c);
	assert_int_equal(c->model_count, 1);
	config_free(c);
	free(text);
}

/* A public key of 2048 bits. */
static const char rsa[] = "-----BEGIN PUBLIC KEY-----\n"
    "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAvaiD/wRxHFQ+N3SYtRsj\n"
    "kVTke4hS113r5T2Taohe2lxHGsKNjqzosC7W0O+YyD5atdMMmGA4sJLMXuoQ1bzK\n"
    "GUiXcn6sDBiHII98QZFw8+7sWu6ziUhKkaXnwiITQ7n5OCrJ1Pgnvv4zx7Zk4ZJn\n"
    "DWZNLPbNfa9tz6mnuN4QhX3KWCg0YYi00NZYNpeLAiVj9Gcq6CuA0JZXVuTgzp38\n"
    "J+mORvSBDxPSSsD2dvi+jiERuV868bnL5MlTeAT7wJED9pItVSwmPdL3NN9a2KrR\n"
    "3IUFedgkQjiqhL0uindlJadjNf1btkMA36R5Zds5YE/iCX5wPWtAvzzvGd3igGFM\n"
    "IwIDAQAB\n"
    "-----END PUBLIC KEY-----\n";

/* With the comment signs before its keys removed, so that none of them is stale. */
static void
the_example_passes_with_all_its_defaults(void **state)
{
	static char text[65536], line[1024], file[] = "/tmp/test_config_key.XXXXXX";
	FILE *in = fopen("etc/tolld.conf", "r");
	int fd = mkstemp(file);
	(void)state;
	assert_non_null(in);
	setenv("OPENAI_API_KEY", "k", 1);
	setenv("ANTHROPIC_API_KEY", "k", 1);
	text[0] = 0;
	while (fgets(line, sizeof(line), in)) {
		char *sign = line + strspn(line, " ");
		if (*sign == '#' && sign[1] != ' ' && sign[1] != '#')
			*sign = ' ';
		else if (*sign == '#' && strncmp(sign, "#    ", 5) == 0)
			*sign = ' ';
		if (strstr(line, "api_key_file") || strstr(line, "user = \"toll\""))
			continue;
		if (strstr(line, "/etc/tolld/login.pem"))
			snprintf(line, sizeof(line), "key_file = \"%s\"\n", file);
		strcat(text, line);
	}
	fclose(in);
	assert_true(fd >= 0 && write(fd, rsa, strlen(rsa)) == (ssize_t)strlen(rsa));
	close(fd);
	struct config *c = load(text);
	unlink(file);
	if (!c)
		print_message("%s", said);
	assert_non_null(c);
	assert_int_equal(c->model_count, 2);
	assert_int_equal(c->provider_count, 3);
	config_free(c);
}

static int
setup(void **state)
{
	(void)state;
	int fd = mkstemp(path);
	close(fd);
	return fd < 0;
}

static int
teardown(void **state)
{
	(void)state;
	free(said);
	return unlink(path);
}

static const char *
jwt_key(const char *algorithm, const char *key)
{
	static char text[400], file[] = "/tmp/test_config_key.XXXXXX";
	struct config *c;
	FILE *f;
	int fd;

	strcpy(file + sizeof file - 7, "XXXXXX");
	fd = mkstemp(file);
	assert_true(fd >= 0);
	f = fdopen(fd, "w");
	fputs(key, f);
	fclose(f);
	snprintf(text, sizeof text, USER PROVIDER MODEL
	    "jwt \"a\" { algorithm = %s audience = us key_file = \"%s\" }", algorithm, file);
	c = load(text);
	if (c != NULL) {
		assert_int_equal(c->jwt_count, 1);
		assert_int_equal(c->jwt[0].scopes, 3);
		assert_string_equal(c->jwt[0].kid, "");
		assert_int_equal(c->jwt[0].key_len, strlen(key) -
		    (c->jwt[0].algorithm == CONFIG_HS256 && key[strlen(key) - 1] == '\n'));
		config_free(c);
		assert_null(strstr(said, key));
	}
	unlink(file);
	return c != NULL ? "" : said;
}

/* A block's key must be one for its algorithm: nothing is left to find out for a token. */
static void
a_tokens_key_is_one_for_its_algorithm(void **state)
{
	static const char p256[] = "-----BEGIN PUBLIC KEY-----\n"
	    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEH0EdQIVhnYMzVCVfi+VLJyIFCwn0\n"
	    "SCCgR4TuopxLqpoR7z+51P/Ew/jRznWo7vLibaN9c3wdmD0jp7Uf+FUzUA==\n"
	    "-----END PUBLIC KEY-----\n";
	static const char rsa1024[] = "-----BEGIN PUBLIC KEY-----\n"
	    "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDK7j6gC2uAHc0fKlnJQwl75DCD\n"
	    "L/YHFzrJ2OluoFqCIYbA8Sz7drsokLNSres2q/gTJ1RYfeu1F+cKrq8HMZ/WhBrq\n"
	    "PedCkGdct4VlrTsuxjVlx58JSGkZWFL1RVGClIOVxISlf9JMYE+uICEGiitzdgvO\n"
	    "ZNFS/oKjsj4052JAEwIDAQAB\n"
	    "-----END PUBLIC KEY-----\n";

	(void)state;
	assert_string_equal(jwt_key("RS256", rsa), "");
	assert_string_equal(jwt_key("ES256", p256), "");
	assert_string_equal(jwt_key("HS256", "0123456789abcdef0123456789abcdef\n"), "");
	assert_non_null(strstr(jwt_key("HS256", "0123456789abcdef0123456789abcde\n"), "32 bytes"));
	assert_non_null(strstr(jwt_key("HS256", rsa), "no secret for HS256"));
	assert_non_null(strstr(jwt_key("RS256", p256), "RSA key of at least 2048"));
	assert_non_null(strstr(jwt_key("RS256", rsa1024), "RSA key of at least 2048"));
	assert_non_null(strstr(jwt_key("ES256", rsa), "P-256"));
	assert_non_null(strstr(jwt_key("RS256", "not a key"), "no PEM public key"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(faults_are_named_by_line_and_key),
		cmocka_unit_test(a_bad_file_leaves_nothing_behind_for_the_next),
		cmocka_unit_test(missing_files_and_users),
		cmocka_unit_test(defaults_are_the_contracts),
		cmocka_unit_test(every_key_arrives),
		cmocka_unit_test(keys_come_from_files),
		cmocka_unit_test(no_fault_shows_a_secret),
		cmocka_unit_test(a_tokens_key_is_one_for_its_algorithm),
		cmocka_unit_test(the_example_passes),
		cmocka_unit_test(the_example_passes_with_all_its_defaults),
	};
	return cmocka_run_group_tests_name("config", tests, setup, teardown);
}
