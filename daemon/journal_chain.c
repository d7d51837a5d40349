/*
 * The journal's chain: SHA-256 over the link before and what a batch has.  Keeper, admin, tools.
 */
#include <openssl/evp.h>
#include <stdlib.h>

#include "daemon/journal.h"
#include "daemon/log.h"

struct journal_chain {
	EVP_MD *md;
	EVP_MD_CTX *ctx;
};

struct journal_chain *
journal_chain_new(void)
{
	struct journal_chain *c = calloc(1, sizeof *c);

	if (c == NULL)
		return NULL;
	/* Fetched once: a look-up in the provider per batch would cost more than the hash. */
	c->md = EVP_MD_fetch(NULL, "SHA256", NULL);
	c->ctx = EVP_MD_CTX_new();
	if (c->md == NULL || c->ctx == NULL) {
		journal_chain_free(c);
		return NULL;
	}
	return c;
}

void
journal_chain_free(struct journal_chain *c)
{
	if (c == NULL)
		return;
	EVP_MD_CTX_free(c->ctx);
	EVP_MD_free(c->md);
	free(c);
}

void
journal_chain_start(struct journal_chain *c)
{
	if (EVP_DigestInit_ex2(c->ctx, c->md, NULL) != 1)
		fatalx("SHA-256 failed");
}

void
journal_chain_begin(struct journal_chain *c, const uint8_t previous[static JOURNAL_LINK_LEN])
{
	journal_chain_start(c);
	journal_chain_add(c, previous, JOURNAL_LINK_LEN);
}

void
journal_chain_add(struct journal_chain *c, const void *bytes, size_t len)
{
	if (EVP_DigestUpdate(c->ctx, bytes, len) != 1)
		fatalx("SHA-256 failed");
}

void
journal_chain_end(struct journal_chain *c, uint8_t link[static JOURNAL_LINK_LEN])
{
	unsigned int len;

	if (EVP_DigestFinal_ex(c->ctx, link, &len) != 1 || len != JOURNAL_LINK_LEN)
		fatalx("SHA-256 failed");
}
