/*
 * tollctl account create | show | list
 */
#include "admin/tollctl.h"

const struct command cmd_account_create = {
    "account create", "account.create", "Make an account.",
    {
	{"ID", NULL, "id", CMD_TEXT, true, "1 to 64 of A-Z a-z 0-9 . _ : @ -"},
	{"--balance", "N", "balance", CMD_MONEY, false,
	    "credits to begin with, booked as a top-up with the ref \"initial\""},
	{"--overdraft", "N", "overdraft", CMD_MONEY, false,
	    "credits below zero that it may go (default: the configuration's)"},
	{"--rpm", "N", "rpm", CMD_COUNT, false, "requests a minute (0: the configuration's)"},
	{"--tpm", "N", "tpm", CMD_COUNT, false, "tokens a minute (0: the configuration's)"},
	{"--streams", "N", "streams", CMD_COUNT, false,
	    "streams at once (0: the configuration's)"},
	{0},
    },
    ctl_show,
};

const struct command cmd_account_show = {
    "account show", "account.show", "Show an account.",
    {
	{"ID", NULL, "id", CMD_TEXT, true, "the account"},
	{0},
    },
    ctl_show,
};

static enum ctl_exit
list(struct ctl *ctl, const struct command *c)
{
	static const struct column columns[] = {
	    {"id", "ACCOUNT", false},
	    {"balance", "BALANCE", true},
	    {"held", "HELD", true},
	    {"available", "AVAILABLE", true},
	    {"overdraft", "OVERDRAFT", true},
	    {"status", "STATUS", false},
	    {NULL, NULL, false},
	};

	return print_pages(ctl, c, "accounts", columns);
}

const struct command cmd_account_list = {
    "account list", "account.list", "List all accounts, in the order of their creation.",
    {{0}},
    list,
};
