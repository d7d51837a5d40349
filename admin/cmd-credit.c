/*
 * tollctl topup | adjust
 */
#include <stdio.h>

#include "admin/tollctl.h"
#include "shm/money.h"

static enum ctl_exit
book(struct ctl *ctl, const struct command *c)
{
	const msgpack_object *result = ctl_call(ctl, c, NULL);
	char balance[MONEY_TEXT_MAX];

	if (result == NULL)
		return ctl->exit;
	if (ctl->json) {
		print_json(result);
		(void)printf("\n");
		return CTL_DONE;
	}
	(void)money_format(balance, proto_get_int(result, "balance", 0));
	(void)printf("balance  %s\n", balance);
	if (proto_get_bool(result, "repeated"))
		(void)fprintf(stderr, "tollctl: this ref was booked before: nothing changed, and "
				      "the balance is the one that it left then\n");
	return CTL_DONE;
}

#define REF                                                                                        \
	{                                                                                          \
		"--ref", "REF", "ref", CMD_TEXT, false,                                            \
		    "your own name for this booking: repeating it changes nothing"                 \
	}

const struct command cmd_topup = {
    "topup", "credit.topup", "Add credits to an account; prints the new balance.",
    {
	{"ID", NULL, "id", CMD_TEXT, true, "the account"},
	{"AMOUNT", NULL, "amount", CMD_MONEY, true, "credits, above 0"},
	REF,
	{0},
    },
    book,
};

const struct command cmd_adjust = {
    "adjust", "credit.adjust",
    "Correct an account's balance, up or down; prints the new balance.\n"
    "A correction may put the account below its floor; it can reserve nothing then.",
    {
	{"ID", NULL, "id", CMD_TEXT, true, "the account"},
	{"AMOUNT", NULL, "amount", CMD_MONEY, true, "credits, such as 5 or -0.25"},
	{"--reason", "TEXT", "reason", CMD_TEXT, true, "kept in the journal"},
	REF,
	{0},
    },
    book,
};
