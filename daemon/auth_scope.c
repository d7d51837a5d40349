/*
 * The names of scopes.  Pure.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/auth.h"

static const char *const scope_name[] = {"chat", "embeddings", "mint"};
#define SCOPES (sizeof scope_name / sizeof scope_name[0])
_Static_assert(KEY_SCOPES == (1u << SCOPES) - 1, "a name for every scope");

void
auth_format_scopes(uint32_t scopes, char text[static AUTH_SCOPES_LEN])
{
	size_t at = 0;

	text[0] = '\0';
	for (size_t i = 0; i < SCOPES; i++)
		if ((scopes & 1u << i) != 0)
			at += (size_t)snprintf(text + at, AUTH_SCOPES_LEN - at, "%s%s",
			    at > 0 ? " " : "", scope_name[i]);
}

uint32_t
auth_parse_scope(const char *name, size_t len)
{
	for (size_t i = 0; i < SCOPES; i++)
		if (strlen(scope_name[i]) == len && memcmp(scope_name[i], name, len) == 0)
			return 1u << i;
	return 0;
}
