/*
 * The kinds of values in the config.  Master.
 */
#include "daemon/config_value.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "daemon/address.h"
#include "daemon/config.h"
#include "daemon/config_source.h"
#include "daemon/secret.h"

#define SECRET_MAX 8192
#define CA_MAX (4 << 20)

#define SETTER(name)                                                                             \
	void name(struct config_file *f, const struct config_key *k, void *field,           \
	    const struct config_entry *e, const char *value)

static void
replace(char **field, const char *value, size_t len)
{
	free(*field);
	*field = config_realloc(NULL, len + 1, 1);
	memcpy(*field, value, len);
	(*field)[len] = 0;
}

/* min and max are lengths. */
SETTER(value_string)
{
	if (strlen(value) < (size_t)k->min)
		config_fault(f, e->line, k->name, "must not be empty");
	else if (strlen(value) > (size_t)k->max)
		config_fault(f, e->line, k->name, "has more than %d bytes", (int)k->max);
	else
		replace(field, value, strlen(value));
}

static bool
parse_integer(struct config_file *f, const struct config_key *k, const struct config_entry *e,
    const char *value, int64_t *out)
{
	const char *digits = value + (*value == '-' || *value == '+');
	char *end;
	errno = 0;
	*out = strtoll(value, &end, 10);
	if (!*digits || strspn(digits, "0123456789") != strlen(digits))
		config_fault(f, e->line, k->name, "\"%s\" is not a whole number", value);
	else if (errno == ERANGE || *out < k->min || *out > k->max)
		config_fault(f, e->line, k->name, "%s is not in %lld..%lld", value,
		    (long long)k->min, (long long)k->max);
	else
		return true;
	return false;
}

SETTER(value_uint)
{
	int64_t n;
	if (parse_integer(f, k, e, value, &n))
		*(uint32_t *)field = (uint32_t)n;
}

SETTER(value_int)
{
	int64_t n;
	if (parse_integer(f, k, e, value, &n))
		*(int *)field = (int)n;
}

SETTER(value_money)
{
	int64_t amount;
	if (money_parse(value, strlen(value), &amount) < 0)
		config_fault(f, e->line, k->name, errno == ERANGE ? "%s is too large"
		    : "\"%s\" is not an amount of credits with at most six decimals", value);
	else if (amount < 0)
		config_fault(f, e->line, k->name, "%s is negative", value);
	else if (k->max > 0 && amount > k->max)
		config_fault(f, e->line, k->name, "%s is more than %lld credits", value,
		    (long long)(k->max / 1000000));
	else
		*(int64_t *)field = amount;
}

/* The index of a word in a NULL-ended list; a fault and -1 if it isn't there. */
static int
one_of(struct config_file *f, const struct config_key *k, const struct config_entry *e,
    const char *value, const char *const word[])
{
	char list[128] = "";
	for (int i = 0; word[i]; i++) {
		if (strcmp(word[i], value) == 0)
			return i;
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s",
		    i ? ", " : "", word[i]);
	}
	config_fault(f, e->line, k->name, "\"%s\" is not one of %s", value, list);
	return -1;
}

SETTER(value_bool)
{
	static const char *const word[] = { "false", "true", "no", "yes", "off", "on", NULL };
	int i = one_of(f, k, e, value, word);
	if (i >= 0)
		*(bool *)field = i % 2 == 1;
}

SETTER(value_log_format)
{
	static const char *const word[] = { "logfmt", "json", NULL };
	int i = one_of(f, k, e, value, word);
	if (i >= 0)
		*(enum log_format *)field = i == 0 ? LOG_LOGFMT : LOG_JSON;
}

SETTER(value_log_level)
{
	static const char *const word[] = { "debug", "info", "warn", "error", NULL };
	int i = one_of(f, k, e, value, word);
	if (i >= 0)
		*(enum log_level *)field = (enum log_level)i;
}

/* "upstream=debug" */
SETTER(value_log_module)
{
	static const char *const word[] = { "debug", "info", "warn", "error", NULL };
	struct config *c = field;
	size_t n = strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789_-");
	int level;
	if (strcmp(value, CONFIG_EMPTY) == 0)
		return;
	if (n == 0 || n >= LOG_MODULE_LEN || value[n] != '=') {
		config_fault(f, e->line, k->name, "\"%s\" is not MODULE=LEVEL", value);
		return;
	}
	level = one_of(f, k, e, value + n + 1, word);
	if (level < 0)
		return;
	if (c->log_modules == LOG_MODULES_MAX) {
		config_fault(f, e->line, k->name, "more than %d of them", LOG_MODULES_MAX);
		return;
	}
	memcpy(c->log_module[c->log_modules].name, value, n);
	c->log_module[c->log_modules++].level = (enum log_level)level;
}

SETTER(value_log_file)
{
	if (*value && *value != '/')
		config_fault(f, e->line, k->name, "\"%s\" is not an absolute path", value);
	else if (*value && value[strlen(value) - 1] == '/')
		config_fault(f, e->line, k->name, "\"%s\" is a folder", value);
	else
		replace(field, value, strlen(value));
}

SETTER(value_sandbox)
{
	static const char *const word[] = { "off", "log", "on", "require", NULL };
	int i = one_of(f, k, e, value, word);
	if (i >= 0)
		*(enum sandbox_mode *)field = (enum sandbox_mode)i;
}

SETTER(value_dialect)
{
	static const char *const word[] = { "openai", "ollama", "anthropic", "auto", NULL };
	int i = one_of(f, k, e, value, word);
	if (i >= 0)
		*(enum config_dialect *)field = (enum config_dialect)i;
}

static const struct tokenizer *
open_tokenizer(const char *name, char *why, size_t why_size)
{
	const struct tokenizer *t;
	if (config_source_replayed()) {
		snprintf(why, why_size, "is not there");
		return config_source_noted_tokenizer(name) ? tokenizer_find(name) : NULL;
	}
	t = tokenizer_open(name, why, why_size);
	if (t)
		config_source_note_tokenizer(name);
	return t;
}

SETTER(value_tokenizer)
{
	static const char *const known[] = { "o200k_base", "cl100k_base" };
	char why[256], other[256];
	const struct tokenizer *t = open_tokenizer(value, why, sizeof(why));
	/* One that should be there: an installation that lost it goes on, by what comes near. */
	for (size_t i = 0; !t && i < sizeof(known) / sizeof(*known); i++)
		if (strcmp(value, known[i]) == 0 &&
		    (t = open_tokenizer("estimate", other, sizeof(other))))
			config_warning(f, e->line, k->name, "\"%s\": %s: model \"%s\" is metered "
			    "by an estimate", value, why, f->section[e->section].title);
	if (t)
		*(const struct tokenizer **)field = t;
	else
		config_fault(f, e->line, k->name, "\"%s\": %s", value, why);
}

SETTER(value_listen)
{
	struct config *c = field;
	struct address a;
	const char *why;
	if (strcmp(value, CONFIG_EMPTY) == 0)
		config_fault(f, e->line, k->name, "needs at least one address");
	else if (!address_parse(value, &a, &why))
		config_fault(f, e->line, k->name, "\"%s\": %s", value, why);
	else if (c->listen_count == CONFIG_LISTEN_MAX)
		config_fault(f, e->line, k->name, "more than %d addresses", CONFIG_LISTEN_MAX);
	else {
		for (int i = 0; i < c->listen_count; i++)
			if (strcmp(c->listen[i], value) == 0) {
				config_fault(f, e->line, k->name, "%s is there twice", value);
				return;
			}
		c->listen[c->listen_count++] = config_strdup(value);
	}
}

SETTER(value_admin_listen)
{
	struct address a;
	const char *why;
	if (*value && !address_parse(value, &a, &why))
		config_fault(f, e->line, k->name, "\"%s\": %s", value, why);
	else
		replace(field, value, strlen(value));
}

/* What is wrong with "http[s]://HOST[:PORT]" at the start of url; *rest is what follows it. */
static const char *
check_origin(const char *url, const char **rest)
{
	const char *host = strncasecmp(url, "https://", 8) == 0 ? url + 8
	    : strncasecmp(url, "http://", 7) == 0             ? url + 7
	                                                      : NULL;
	if (!host)
		return "must start with https:// or http://";
	size_t len = strcspn(host, "/?#");
	*rest = host + len;
	for (const char *p = url; *p; p++)
		if (*p <= ' ' || *p > '~' || strchr("\"<>\\^`{|}", *p))
			return "has a character that a URL cannot have";
	if (memchr(host, '@', len))
		return "must not have user information";
	const char *colon = memchr(host, ':', len);
	size_t name_len = colon ? (size_t)(colon - host) : len;
	if (*host == '[') {
		const char *bracket = memchr(host, ']', len);
		if (!bracket || (bracket + 1 != *rest && bracket[1] != ':'))
			return "is not well-formed at its host";
		name_len = (size_t)(bracket + 1 - host);
		colon = bracket + 1 == *rest ? NULL : bracket + 1;
	}
	if (name_len == 0)
		return "has no host";
	if (colon) {
		char *end;
		long port = strtol(colon + 1, &end, 10);
		if (end != *rest || colon[1] < '0' || colon[1] > '9' || port < 1 || port > 65535)
			return "has a port that is not in 1..65535";
	}
	return NULL;
}

SETTER(value_base_url)
{
	struct config_provider *p = field;
	if (strcmp(value, CONFIG_EMPTY) == 0) {
		config_fault(f, e->line, k->name, "needs at least one URL");
		return;
	}
	const char *rest, *why = check_origin(value, &rest);
	size_t len = strlen(value);
	if (!why && strchr(value, '#'))
		why = "must not have a fragment";
	if (!why && strchr(value, '?'))
		why = "must not have a query";
	if (why) {
		/* Not the URL itself: it may hold a password. */
		config_fault(f, e->line, k->name, "the URL %s", why);
		return;
	}
	while (len > 0 && value[len - 1] == '/')
		len--;
	for (int i = 0; i < p->base_urls; i++)
		if (strlen(p->base_url[i]) == len && memcmp(p->base_url[i], value, len) == 0) {
			config_fault(f, e->line, k->name, "a URL is there twice");
			return;
		}
	if (p->base_urls == CONFIG_URLS_MAX)
		config_fault(f, e->line, k->name, "more than %d of them", CONFIG_URLS_MAX);
	else
		replace(&p->base_url[p->base_urls++], value, len);
}

SETTER(value_proxy)
{
	struct config *c = field;
	if (strcmp(value, CONFIG_EMPTY) == 0)
		return;
	if (c->proxy_count == CONFIG_PROXIES_MAX)
		config_fault(f, e->line, k->name, "more than %d proxies", CONFIG_PROXIES_MAX);
	else if (!address_parse_net(value, &c->proxy[c->proxy_count]))
		config_fault(f, e->line, k->name,
		    "\"%s\" is no address or network (192.0.2.1, 10.0.0.0/8, 2001:db8::/32)", value);
	else
		c->proxy_count++;
}

SETTER(value_origin)
{
	struct config *c = field;
	const char *rest, *why;
	if (strcmp(value, CONFIG_EMPTY) == 0)
		return;
	rest = "";
	why = strcmp(value, "*") == 0 ? NULL : check_origin(value, &rest); /* "*": any page */
	if (!why && *rest)
		why = "must end after its host or port";
	if (why)
		config_fault(f, e->line, k->name, "the origin \"%s\" %s", value, why);
	else if (c->origin_count == CONFIG_ORIGINS_MAX)
		config_fault(f, e->line, k->name, "more than %d origins", CONFIG_ORIGINS_MAX);
	else {
		char *origin = config_strdup(value);
		for (char *p = origin; *p; p++) /* as browsers send it */
			*p = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
		c->origins[c->origin_count++] = origin;
	}
}

SETTER(value_refuse)
{
	struct config_provider *p = field;
	char *name;

	if (strcmp(value, CONFIG_EMPTY) == 0)
		return;
	if (*value == '\0' || strlen(value) > 63)
		config_fault(f, e->line, k->name, "must hold names of 1 to 63 bytes");
	else if (p->refused == CONFIG_REFUSE_MAX)
		config_fault(f, e->line, k->name, "more than %d names", CONFIG_REFUSE_MAX);
	else {
		p->refuse[p->refused++] = name = config_strdup(value);
		for (; *name; name++) /* json_is_like */
			*name = *name >= 'A' && *name <= 'Z' ? (char)(*name + 32) : *name;
	}
}

static void
add_secret(struct config_file *f, const struct config_key *k, struct config_provider *p,
    const struct config_entry *e, const char *value)
{
	if (p->api_keys > 0 && e->first) {
		config_fault(f, e->line, k->name, "only one of api_key and api_key_file");
		return;
	}
	if (p->api_keys == CONFIG_KEYS_MAX) {
		config_fault(f, e->line, k->name, "more than %d of them", CONFIG_KEYS_MAX);
		return;
	}
	for (const char *c = value; *c; c++)
		if (*c <= ' ' || *c > '~') {
			config_fault(f, e->line, k->name,
			    "has a character that a header cannot have");
			return;
		}
	for (int i = 0; i < p->api_keys; i++)
		if (!*value || !*p->api_key[i] || strcmp(p->api_key[i], value) == 0) {
			config_fault(f, e->line, k->name, "a key is empty, or there twice");
			return;
		}
	p->api_key[p->api_keys++] = secret_strdup(value);
}

SETTER(value_api_key)
{
	if (strcmp(value, CONFIG_EMPTY) != 0)
		add_secret(f, k, field, e, value);
}

SETTER(value_api_key_file)
{
	char text[SECRET_MAX + 1];
	if (strcmp(value, CONFIG_EMPTY) == 0)
		return;
	ssize_t n = config_source_file(value, text, sizeof(text));
	if (n < 0)
		config_fault(f, e->line, k->name, "cannot read %s: %s", value, strerror(errno));
	else if (n > SECRET_MAX)
		config_fault(f, e->line, k->name, "%s is longer than %d bytes", value, SECRET_MAX);
	if (n < 0 || n > SECRET_MAX)
		return;
	if (n > 0 && text[n - 1] == '\n')
		n--;
	if (n > 0 && text[n - 1] == '\r')
		n--;
	text[n] = 0;
	if (n == 0)
		config_fault(f, e->line, k->name, "%s is empty", value);
	else if (strlen(text) != (size_t)n)
		config_fault(f, e->line, k->name, "%s holds a NUL", value);
	else
		add_secret(f, k, field, e, text);
	explicit_bzero(text, sizeof(text));
}

/* Read here and kept, since a worker may not open a file of anybody's choice. */
SETTER(value_ca_file)
{
	struct config_provider *p = field;
	char *text = config_realloc(NULL, CA_MAX + 1, 1);
	ssize_t n = config_source_file(value, text, CA_MAX + 1);
	BIO *bio = n < 0 ? NULL : BIO_new_mem_buf(text, (int)n);
	X509 *first = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	if (n < 0)
		config_fault(f, e->line, k->name, "cannot read %s: %s", value, strerror(errno));
	else if (n > CA_MAX)
		config_fault(f, e->line, k->name, "%s is larger than %d MiB", value, CA_MAX >> 20);
	else if (!first)
		config_fault(f, e->line, k->name, "%s holds no PEM certificate", value);
	else {
		p->ca = config_realloc(p->ca, (size_t)n + 1, 1);
		memcpy(p->ca, text, (size_t)n);
		p->ca[n] = 0;
		p->ca_len = (size_t)n;
	}
	X509_free(first);
	BIO_free(bio);
	ERR_clear_error();
	free(text);
}

SETTER(value_nothing)
{
	(void)f;
	(void)k;
	(void)field;
	(void)e;
	(void)value;
}
