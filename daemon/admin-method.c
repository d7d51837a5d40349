/*
 * The table of the admin socket's methods and what they take.  Admin process.
 */
#include "daemon/admin.h"

#include <string.h>

#define ID {"id", PROTO_TEXT, true, 1, ACCOUNT_ID_MAX}
#define PAGE                                                                                       \
	{"after", PROTO_NUMBER, false, 0, UINT32_MAX},                                             \
	{                                                                                          \
		"limit", PROTO_NUMBER, false, 1, ADMIN_PAGE_MAX                                    \
	}
#define REF {"ref", PROTO_TEXT, false, 1, 128}
#define REASON_MAX 512
#define REASON(required) {"reason", PROTO_TEXT, required, 1, REASON_MAX}
#define BUDGETS_SET                                                                                \
	{"budget_day", PROTO_NUMBER, false, 0, PURSE_MAX},                                         \
	{                                                                                          \
		"budget_month", PROTO_NUMBER, false, 0, PURSE_MAX                                  \
	}
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
            BUDGETS_SET,
            END}},
    {"account.set", admin_account_set, true, true,
        {ID,
            {"overdraft", PROTO_NUMBER, false, 0, CREDIT_MAX},
            {"rpm", PROTO_NUMBER, false, 0, UINT32_MAX},
            {"tpm", PROTO_NUMBER, false, 0, UINT32_MAX},
            {"streams", PROTO_NUMBER, false, 0, UINT32_MAX},
            BUDGETS_SET,
            {"unfreeze", PROTO_BOOL, false, 0, 1},
            REASON(false),
            END}},
    {"account.close", admin_account_close, true, true, {ID, REASON(false), END}},
    {"account.show", admin_account_show, true, false, {ID, END}},
    {"account.list", admin_account_list, true, false, {PAGE, END}},
    {"credit.topup", admin_credit_topup, true, true,
        {ID, {"amount", PROTO_NUMBER, true, 1, CREDIT_MAX}, REF, END}},
    {"credit.adjust", admin_credit_adjust, true, true,
        {ID,
            {"amount", PROTO_NUMBER, true, -CREDIT_MAX, CREDIT_MAX},
            REF,
            REASON(true),
            END}},
    {"key.create", admin_key_create, true, true,
        {ID,
            {"ttl", PROTO_NUMBER, false, 1, YEARS_10},
            {"label", PROTO_TEXT, false, 1, 128},
            {"scope", PROTO_TEXT, false, 1, 64},
            {"model", PROTO_TEXT, false, 1, KEY_MODELS_TEXT_MAX},
            {"cap", PROTO_NUMBER, false, 1, PURSE_MAX},
            {"per", PROTO_TEXT, false, 1, 16},
            {"mint_others", PROTO_BOOL, false, 0, 1},
            {"trust_user_header", PROTO_BOOL, false, 0, 1},
            {"rpm", PROTO_NUMBER, false, 0, UINT32_MAX},
            {"tpm", PROTO_NUMBER, false, 0, UINT32_MAX},
            {"streams", PROTO_NUMBER, false, 0, UINT32_MAX},
            END}},
    {"key.list", admin_key_list, true, false, {ID, PAGE, END}},
    {"key.revoke", admin_key_revoke, true, true,
        {{"key_id", PROTO_TEXT, true, 1, AUTH_KEY_ID_LEN}, END}},
    {"price.list", admin_price_list, true, false, {PAGE, END}},
    {"price.set", admin_price_set, true, true,
        {{"model", PROTO_TEXT, true, 1, 128},
            {"kind", PROTO_TEXT, true, 1, 32},
            {"price", PROTO_NUMBER, true, 0, CREDIT_MAX},
            END}},
    {"price.reset", admin_price_reset, true, true,
        {{"model", PROTO_TEXT, true, 1, 128}, {"kind", PROTO_TEXT, true, 1, 32}, END}},
    {"hold.list", admin_hold_list, true, false, {PAGE, END}},
    {"hold.void", admin_hold_void, true, true, {{"hold", PROTO_TEXT, true, 1, 31}, END}},
    {"stream.list", admin_stream_list, true, false, {PAGE, END}},
    {"stream.cancel", admin_stream_cancel, true, true,
        {{"stream_id", PROTO_TEXT, true, 1, 64}, END}},
    {"workers.list", admin_workers_list, false, false, {END}},
    {"daemon.reload", admin_daemon_reload, false, false, {END}},
    {"daemon.drain", admin_daemon_drain, false, false,
        {{"keep", PROTO_BOOL, false, 0, 1}, {"resume", PROTO_BOOL, false, 0, 1}, END}},
    {"stats.get", admin_stats_get, false, false, {END}},
    {"audit.run", admin_audit_run, true, false, {{"link", PROTO_TEXT, false, 1, 96}, END}},
    {"journal.read", admin_journal_read, true, false,
        {{"after", PROTO_NUMBER, false, 0, INT64_MAX - 1},
            {"limit", PROTO_NUMBER, false, 1, ADMIN_PAGE_MAX},
            {"account", PROTO_TEXT, false, 1, ACCOUNT_ID_MAX},
            {"since", PROTO_NUMBER, false, 0, INT64_MAX / 1000000},
            {"follow", PROTO_BOOL, false, 0, 1},
            END}},
    {"journal.compact", admin_compact_run, true, true,
        {{"before", PROTO_NUMBER, false, 0, INT64_MAX / 1000000},
            {"keep", PROTO_NUMBER, false, 0, INT64_MAX / 1000000},
            END}},
    {"backup.run", admin_backup_run, true, false, {{"dir", PROTO_TEXT, true, 1, 1024}, END}},
    {"daemon.ping", admin_daemon_ping, false, false, {END}},
    {NULL, NULL, false, false, {END}},
};

bool
admin_method_reads(const struct admin_method *m)
{
	/* Not a backup: it writes a copy of everything, keys' hashes included. */
	static const char *const names[] = {"account.list", "account.show", "audit.run",
	    "daemon.ping", "hold.list", "journal.read", "key.list", "price.list", "stats.get",
	    "stream.list", "workers.list"};

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (strcmp(m->name, names[i]) == 0)
			return true;
	return false;
}
