/*
 * tollctl account create | show | list | set | close
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
	{"--budget-day", "N", "budget_day", CMD_MONEY, false,
	    "credits that it may spend a day, in UTC (0: as many as it has)"},
	{"--budget-month", "N", "budget_month", CMD_MONEY, false, "the same, a month"},
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

const struct command cmd_account_set = {
    "account set", "account.set",
    "Change an account's overdraft, limits or budgets, or lift its freeze.  What is not given stays.\n"
    "A lowered overdraft may put the account below its floor; it can reserve nothing then.",
    {
	{"ID", NULL, "id", CMD_TEXT, true, "the account"},
	{"--overdraft", "N", "overdraft", CMD_MONEY, false, "credits below zero that it may go"},
	{"--rpm", "N", "rpm", CMD_COUNT, false, "requests a minute (0: the configuration's)"},
	{"--tpm", "N", "tpm", CMD_COUNT, false, "tokens a minute (0: the configuration's)"},
	{"--streams", "N", "streams", CMD_COUNT, false,
	    "streams at once (0: the configuration's)"},
	{"--budget-day", "N", "budget_day", CMD_MONEY, false,
	    "credits that it may spend a day, in UTC (0: as many as it has)"},
	{"--budget-month", "N", "budget_month", CMD_MONEY, false, "the same, a month"},
	{"--unfreeze", NULL, "unfreeze", CMD_FLAG, false,
	    "it may be used again; needs a --reason"},
	{"--reason", "TEXT", "reason", CMD_TEXT, false, "kept in the journal"},
	{0},
    },
    ctl_show,
};

const struct command cmd_account_close = {
    "account close", "account.close",
    "Close an account for ever: it takes no requests, credit or keys any more.  Streams that\n"
    "run end as they would, and are charged.",
    {
	{"ID", NULL, "id", CMD_TEXT, true, "the account"},
	{"--reason", "TEXT", "reason", CMD_TEXT, false, "kept in the journal"},
	{0},
    },
    ctl_show,
};
