/*
 * tollctl key create | list | revoke
 */
#include <stdio.h>
#include <unistd.h>

#include "admin/tollctl.h"

/* In a script, KEY=$(tollctl key create alice) is to be the key and nothing else. */
static enum ctl_exit
create(struct ctl *ctl, const struct command *c)
{
	const msgpack_object *result;
	const char *key;
	size_t len;

	if (ctl->json)
		return ctl_show(ctl, c);
	result = ctl_call(ctl, c, NULL);
	if (result == NULL)
		return ctl->exit;
	if (isatty(STDOUT_FILENO) != 0) {
		print_object(result);
		(void)fprintf(stderr, "This is the only time that the key is shown.\n");
		return CTL_DONE;
	}
	key = proto_get_text(result, "key", &len);
	print_text(key, len);
	(void)printf("\n");
	return CTL_DONE;
}

const struct command cmd_key_create = {
    "key create", "key.create",
    "Make an API key for an account and print it, this once.  If the output is not a\n"
    "terminal (and without --json), the key alone is printed.",
    {
	{"ID", NULL, "id", CMD_TEXT, true, "the account"},
	{"--ttl", "TIME", "ttl", CMD_DURATION, false,
	    "how long it is good: 90s, 15m, 1h, 7d (default: until revoked)"},
	{"--label", "TEXT", "label", CMD_TEXT, false, "a name for it, kept in the journal"},
	{"--scope", "LIST", "scope", CMD_TEXT, false,
	    "of chat,embeddings,mint (default: chat,embeddings)"},
	{"--model", "LIST", "model", CMD_TEXT, false, "the models that it may use (default: all)"},
	{"--cap", "N", "cap", CMD_MONEY, false, "credits that it may spend,"},
	{"--per", "WHAT", "per", CMD_TEXT, false, "day, month (in UTC) or total"},
	{"--mint-others", NULL, "mint_others", CMD_FLAG, false,
	    "with the scope mint: keys for any account, not only its own"},
	{"--trust-user-header", NULL, "trust_user_header", CMD_FLAG, false,
	    "charge the user whom X-OpenWebUI-User-Id names, and make its account when it is new"},
	{"--rpm", "N", "rpm", CMD_COUNT, false, "requests a minute, beside the account's limit"},
	{"--tpm", "N", "tpm", CMD_COUNT, false, "tokens a minute, beside the account's limit"},
	{"--streams", "N", "streams", CMD_COUNT, false,
	    "streams at once, beside the account's limit"},
	{0},
    },
    create,
};

static enum ctl_exit
list(struct ctl *ctl, const struct command *c)
{
	static const struct column columns[] = {
	    {"key_id", "KEY ID", false},
	    {"account", "ACCOUNT", false},
	    {"status", "STATUS", false},
	    {"expires_at", "EXPIRES", false},
	    {"scope", "SCOPE", false},
	    {"model", "MODELS", false},
	    {"cap", "CAP", true},
	    {"per", "PER", false},
	    {"used", "USED", true},
	    {"rpm", "RPM", true},
	    {"tpm", "TPM", true},
	    {"streams", "STREAMS", true},
	    {"label", "LABEL", false},
	    {NULL, NULL, false},
	};

	return print_pages(ctl, c, "keys", columns);
}

const struct command cmd_key_list = {
    "key list", "key.list", "List an account's keys; the keys themselves are not kept.",
    {
	{"ID", NULL, "id", CMD_TEXT, true, "the account"},
	{0},
    },
    list,
};

static enum ctl_exit
revoke_key(struct ctl *ctl, const struct command *c)
{
	if (ctl->json)
		return ctl_show(ctl, c);
	if (ctl_call(ctl, c, NULL) == NULL)
		return ctl->exit;
	(void)printf("revoked  %s\n", ctl->given[0]);
	return CTL_DONE;
}

const struct command cmd_key_revoke = {
    "key revoke", "key.revoke", "Revoke a key; when this returns, it is refused everywhere.",
    {
	{"KEYID", NULL, "key_id", CMD_TEXT, true, "key_..., as key create and key list show it"},
	{0},
    },
    revoke_key,
};
