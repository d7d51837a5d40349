/*
 * tollctl price list | set | reset
 */
#include <stdio.h>

#include "admin/tollctl.h"

static const struct column columns[] = {
    {"model", "MODEL", false},
    {"price_prompt", "PROMPT", true},
    {"price_cached", "CACHED", true},
    {"price_cache_write", "CACHE WRITE", true},
    {"price_completion", "COMPLETION", true},
    {"price_reasoning", "REASONING", true},
    {"price_request", "REQUEST", true},
    {"set", "SET HERE", false},
    {NULL, NULL, false},
};

static enum ctl_exit
list(struct ctl *ctl, const struct command *c)
{
	return print_pages(ctl, c, "prices", columns);
}

const struct command cmd_price_list = {
    "price list",
    "price.list",
    "List what each model's tokens cost: credits per million, and per request.  The kinds under\n"
    "SET HERE were set by price set, the others are the configuration's.",
    {{0}},
    list,
};

const struct command cmd_price_set = {
    "price set",
    "price.set",
    "Set what a kind of a model's tokens costs, over the configuration and beyond restarts.  New\n"
    "streams pay it at once; those that run pay what they were reserved at.",
    {
        {"MODEL", NULL, "model", CMD_TEXT, true, "its name in the configuration"},
        {"KIND", NULL, "kind", CMD_TEXT, true,
            "prompt, cached, cache_write, completion, reasoning or request"},
        {"PRICE", NULL, "price", CMD_MONEY, true,
            "credits per million tokens; for request: per request"},
        {0},
    },
    ctl_show,
};

const struct command cmd_price_reset = {
    "price reset",
    "price.reset",
    "Go back to the configuration's price.",
    {
        {"MODEL", NULL, "model", CMD_TEXT, true, "its name in the configuration"},
        {"KIND", NULL, "kind", CMD_TEXT, true, "as for price set, or all"},
        {0},
    },
    ctl_show,
};
