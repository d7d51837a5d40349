/*
 * The table of the admin socket's methods and what they take.  Admin process.
 */
#include "daemon/admin.h"

#define ID {"id", PROTO_TEXT, true, 1, ACCOUNT_ID_MAX}
#define PAGE                                                                                       \
	{"after", PROTO_NUMBER, false, 0, UINT32_MAX},                                             \
	{                                                                                          \
		"limit", PROTO_NUMBER, false, 1, ADMIN_PAGE_MAX                                    \
	}
#define REF {"ref", PROTO_TEXT, false, 1, 128}
#define END {NULL, PROTO_TEXT, false, 0, 0}
/* The keeper takes no more (its sums of several amounts must not overflow). */
#define CREDIT_MAX (INT64_MAX / 8)
#define YEARS_10 (10 * 366 * 86400)

const struct admin_method admin_methods[] = {
    {"account.create", admin_account_create, true, true,
        {ID,
            {"balance", PROTO_NUMBER, false, 0, CREDIT_MAX},
            {"overdraft", PROTO_NUMBER, false, 0, CREDIT_MAX},
            {"rpm", PROTO_NUMBER, false, 0, UINT32_MAX},
            {"tpm", PROTO_NUMBER, false, 0, UINT32_MAX},
            {"streams", PROTO_NUMBER, false, 0, UINT32_MAX},
            END}},
    {"account.show", admin_account_show, true, false, {ID, END}},
    {"account.list", admin_account_list, true, false, {PAGE, END}},
    {"credit.topup", admin_credit_topup, true, true,
        {ID, {"amount", PROTO_NUMBER, true, 1, CREDIT_MAX}, REF, END}},
    {"credit.adjust", admin_credit_adjust, true, true,
        {ID,
            {"amount", PROTO_NUMBER, true, -CREDIT_MAX, CREDIT_MAX},
            REF,
            {"reason", PROTO_TEXT, true, 1, 512},
            END}},
    {"key.create", admin_key_create, true, true,
        {ID,
            {"ttl", PROTO_NUMBER, false, 1, YEARS_10},
            {"label", PROTO_TEXT, false, 1, 128},
            END}},
    {"key.list", admin_key_list, true, false, {ID, PAGE, END}},
    {"key.revoke", admin_key_revoke, true, true,
        {{"key_id", PROTO_TEXT, true, 1, AUTH_KEY_ID_LEN}, END}},
    {"hold.list", admin_hold_list, true, false, {PAGE, END}},
    {"workers.list", admin_workers_list, false, false, {END}},
    {"stats.get", admin_stats_get, false, false, {END}},
    {"audit.run", admin_audit_run, true, false, {END}},
    {"daemon.ping", admin_daemon_ping, false, false, {END}},
    {NULL, NULL, false, false, {END}},
};
