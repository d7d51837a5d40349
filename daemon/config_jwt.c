/*
 * jwt blocks of the config: whose tokens are believed, and what for.  Master.
 */
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/auth.h"
#include "daemon/config.h"
#include "daemon/config_file.h"
#include "daemon/config_source.h"
#include "daemon/config_value.h"
#include "daemon/secret.h"

#define KEY_FILE_MAX 16384
#define SECRET_MIN 32 /* bytes: RFC 7518 asks for no less with HS256 */
#define RSA_BITS_MIN 2048

#define J(field) offsetof(struct config_jwt, field)

static void
value_algorithm(struct config_file *f, const struct config_key *k, void *field,
    const struct config_entry *e, const char *value)
{
	static const char *const name[] = {
	    [CONFIG_RS256] = "RS256", [CONFIG_ES256] = "ES256", [CONFIG_HS256] = "HS256"};

	for (int i = 0; i < CONFIG_ALGORITHMS; i++)
		if (strcmp(value, name[i]) == 0) {
			*(enum config_algorithm *)field = (enum config_algorithm)i;
			return;
		}
	config_fault(f, e->line, k->name, "must be RS256, ES256 or HS256");
}

static void
value_scope(struct config_file *f, const struct config_key *k, void *field,
    const struct config_entry *e, const char *value)
{
	uint32_t *scopes = field, scope = auth_parse_scope(value, strlen(value));

	if (e->first)
		*scopes = 0;
	if (strcmp(value, CONFIG_EMPTY) == 0)
		return;
	/* What a token's keys could do would outlast it, and cannot be revoked. */
	if ((scope & (KEY_SCOPE_CHAT | KEY_SCOPE_EMBEDDINGS)) == 0)
		config_fault(f, e->line, k->name, "may hold \"chat\" and \"embeddings\"");
	*scopes |= scope;
}

const struct config_key config_jwt_keys[] = {
    {"algorithm", value_algorithm, J(algorithm), 0, 0, false},
    {"key_file", value_string, J(key_file), 1, 1024, false},
    {"audience", value_string, J(audience), 1, 256, false},
    {"kid", value_string, J(kid), 0, 128, false},
    {"scope", value_scope, J(scopes), 0, 0, true},
    {0},
};

static int
line_of(const struct config_file *f, size_t section, const char *key)
{
	for (size_t i = 0; i < f->entries; i++)
		if (f->entry[i].section == section && strcmp(f->entry[i].key, key) == 0)
			return f->entry[i].line;
	return 0;
}

/* NULL, or what is wrong with a PEM public key for this algorithm. */
static const char *
wrong_key(const struct config_jwt *j)
{
	BIO *in = BIO_new_mem_buf(j->key, (int)j->key_len);
	EVP_PKEY *key = in != NULL ? PEM_read_bio_PUBKEY(in, NULL, NULL, NULL) : NULL;
	const char *why = NULL;
	char group[32] = "";

	if (key == NULL)
		why = "holds no PEM public key";
	else if (j->algorithm == CONFIG_RS256 &&
	         (EVP_PKEY_base_id(key) != EVP_PKEY_RSA || EVP_PKEY_bits(key) < RSA_BITS_MIN))
		why = "holds no RSA key of at least 2048 bits, as RS256 needs";
	else if (j->algorithm == CONFIG_ES256 &&
	         (EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) != 1 ||
	             strcmp(group, "prime256v1") != 0))
		why = "holds no EC key on P-256, as ES256 needs";
	EVP_PKEY_free(key);
	BIO_free(in);
	ERR_clear_error();
	return why;
}

static const char *
wrong_secret(const struct config_jwt *j)
{
	if (j->key_len < SECRET_MIN)
		return "holds a secret of fewer than 32 bytes";
	/* A public key as an HMAC's secret: everybody could sign. */
	if (memmem(j->key, j->key_len, "-----BEGIN", 10) != NULL)
		return "holds a PEM key, which is no secret for HS256";
	return NULL;
}

/* The file as it is; of a secret, a line feed at its end is the editor's. */
static const char *
read_key(struct config_jwt *j)
{
	char text[KEY_FILE_MAX + 1];
	ssize_t n = config_source_file(j->key_file, text, sizeof(text));
	const char *why = n < 0 ? strerror(errno) : n > KEY_FILE_MAX ? "is too long" : NULL;

	if (why != NULL)
		return why;
	if (j->algorithm == CONFIG_HS256 && n > 0 && text[n - 1] == '\n')
		n--;
	j->key = secret_new((size_t)n + 1);
	j->key_len = (size_t)n;
	memcpy(j->key, text, j->key_len);
	explicit_bzero(text, sizeof(text));
	return j->algorithm == CONFIG_HS256 ? wrong_secret(j) : wrong_key(j);
}

bool
config_jwt_begin(struct config_file *f, struct config *c, size_t section)
{
	const struct config_section *s = &f->section[section];
	struct config_jwt *j = &c->jwt[c->jwt_count];

	if (c->jwt_count == CONFIG_JWTS_MAX) {
		config_fault(f, s->line, s->name, "more than %d of them", CONFIG_JWTS_MAX);
		return false;
	}
	c->jwt_count++;
	*j = (struct config_jwt){.name = config_strdup(s->title),
	    .kid = config_strdup(""),
	    .algorithm = CONFIG_ALGORITHMS,
	    .scopes = KEY_SCOPE_CHAT | KEY_SCOPE_EMBEDDINGS};
	return true;
}

void
config_jwt_end(struct config_file *f, struct config *c, size_t section)
{
	struct config_jwt *j = &c->jwt[c->jwt_count - 1];
	static const char *const needed[] = {"algorithm", "key_file", "audience"};
	int line = f->section[section].line;
	const char *why;

	if (f->broken)
		return;
	for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++)
		if (line_of(f, section, needed[i]) == 0)
			config_fault(f, line, needed[i], "is missing in jwt \"%s\"", j->name);
	for (int i = 0; i + 1 < c->jwt_count; i++)
		if (strcmp(c->jwt[i].kid, j->kid) == 0) {
			int at = line_of(f, section, "kid");

			config_fault(f, at != 0 ? at : line, "kid", "jwt \"%s\" has the same one",
			    c->jwt[i].name);
		}
	if (j->key_file == NULL || j->algorithm == CONFIG_ALGORITHMS)
		return;
	why = read_key(j);
	if (why != NULL)
		config_fault(
		    f, line_of(f, section, "key_file"), "key_file", "%s: %s", j->key_file, why);
}
