#ifndef DAEMON_ADMIN_H
#define DAEMON_ADMIN_H

/*
 * What the files of the admin process share.
 *
 * A new method: a function in an admin-*.c, declared here, and a row in admin-method.c.
 * A method answers by admin_result or admin_error, now (ADMIN_DONE) or later (ADMIN_LATER, then
 * admin_finish).  It never blocks, and takes at most some 10 ms at a time.
 */
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "admin/proto.h"
#include "daemon/auth.h"
#include "daemon/buf.h"
#include "daemon/durable.h"
#include "daemon/heritage.h"
#include "shm/ledger.h"

#define ADMIN_CLIENTS_MAX 64
#define ADMIN_CALLS_MAX 32             /* of one client, under way at once */
#define ADMIN_OUT_PAUSE (256u << 10)   /* bytes unsent: no further request of it is read */
#define ADMIN_OUT_MAX (4u << 20)       /* bytes unsent: it is dropped */
#define ADMIN_FRAME_SECONDS 10         /* for a request to arrive whole */
#define ADMIN_STALL_SECONDS 30         /* for a client to read something */
#define ADMIN_JOURNAL_SECONDS 5        /* for the journal to take what is asked for */
#define ADMIN_TURN_US 5000             /* one client's share of a turn of the loop */
#define ADMIN_PAGE_MAX 1000            /* entries of a list in one answer */

struct admin_client;
struct journal_entry;
struct journal_reader;
struct metrics_http;
struct state_reader;
TAILQ_HEAD(admin_clients, admin_client);
TAILQ_HEAD(admin_starved, admin_call);
TAILQ_HEAD(admin_endings, ending);
TAILQ_HEAD(admin_reloads, admin_call);

struct admin {
	struct heritage *heritage;
	struct region *region;
	struct event_base *base;
	struct ledger *ledger;
	struct durable *durable;
	struct metrics_http *http;
	/* Opened when first needed; a process may open each file only once. */
	struct state_reader *state;
	struct journal_reader *journal;
	struct admin_call *audit; /* the one that runs */
	void *backup;             /* the one that runs: admin-backup.c */
	struct admin_call *setting; /* the account.set that is on its way to disk */
	uid_t uid;                  /* the daemon's own */
	struct event *listen, *retry, *tick, *drain, *stop;
	struct admin_clients clients;
	struct admin_starved starved; /* their first balance is still to be booked */
	struct admin_reloads reloads; /* wait for the master's report */
	struct event *orders;         /* the master's: admin-reload.c */
	struct admin_endings endings; /* holds that are to be closed: admin-hold.c */
	struct event *endings_timer;
	unsigned client_count, calls; /* calls: of all clients, gone ones too, under way */
	bool stopping;
	bool stalled; /* the journal has taken nothing for long */
	uint64_t stop_by_us;
};

enum admin_step {
	ADMIN_DONE,  /* answered */
	ADMIN_LATER, /* admin_finish will be called */
	ADMIN_BUSY,  /* nothing was done: no room in the ring; ask again */
};

struct admin_call;
typedef enum admin_step admin_fn(struct admin_call *, const struct proto_value *);

/* A new method is for the full role, unless admin_method_reads names it. */
struct admin_method {
	const char *name;
	admin_fn *fn;
	bool needs_accounts; /* waits until the keeper has loaded them */
	bool needs_journal;  /* refused while the journal cannot be written */
	struct proto_arg args[PROTO_ARGS_MAX];
};

/* One request under way.  It outlives its client if a record of it is on its way to disk. */
struct admin_call {
	struct admin *admin;
	struct admin_client *client; /* NULL: gone, nobody wants the answer */
	TAILQ_ENTRY(admin_call) link, starved;
	const struct admin_method *method;
	uint32_t id;
	uid_t peer;
	bool full; /* the peer may change things, and see what opens a stream */
	struct proto_out out;
	/* The client is gone: drop what the call holds and finish it.  NULL: it goes on. */
	void (*cancel)(struct admin_call *);
	/* The method's own, as far as it needs them: */
	struct account *account;
	struct hold *hold;
	int64_t amount;
	uint32_t at, limit; /* of a page */
	uint64_t key_id, expires_us;
	const char *done; /* for the log, when it is durable */
	char key[AUTH_KEY_LEN + 1];
	void *state; /* freed by the method */
};

/* The methods' table, ended by name NULL. */
extern const struct admin_method admin_methods[];
/* Does it only look?  Then it is for the reading role too. */
bool admin_method_reads(const struct admin_method *);

/* Answering.  admin_result: exactly one value must be put into the returned message. */
struct proto_out *admin_result(struct admin_call *);
enum admin_step admin_error(struct admin_call *, const char *code, const char *field,
    const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* After ADMIN_LATER: the answer is complete; the call is freed. */
void admin_finish(struct admin_call *);
/* Send a message to the caller while its call is under way; dropped if it does not read. */
void admin_notify(struct admin_call *, const struct proto_out *);

/* Bytes on their way to the caller. */
size_t admin_unsent(const struct admin_call *);

/* What a kind of price is called in answers ("price_prompt"); admin-price.c. */
const char *admin_price_field(enum price_kind);

/* A journal record's fields as a map (admin-record.c). */
void admin_put_record(struct proto_out *, const struct region *, const struct journal_entry *);
/* A link of the chain, or a hash, as hexadecimal digits into `text`, which is returned. */
#define ADMIN_LINK_LEN 64
const char *admin_link(const uint8_t link[static 32], char text[static ADMIN_LINK_LEN + 1]);

/* What a keeper's refusal of a record means. */
enum admin_step admin_refused(struct admin_call *, enum ring_status);
/* The account of an "id" argument, or NULL with the error answered. */
struct account *admin_account(struct admin_call *, const struct proto_value *id);
/* An account object: balance instead of the books' if it is given. */
void admin_put_account(struct proto_out *, const struct account *, const int64_t *balance,
    bool repeated);
/* Book a top-up or adjustment of call->amount on call->account; the answer is the account. */
enum admin_step admin_credit(struct admin_call *, enum journal_type,
    const struct proto_value *ref, const struct proto_value *reason);
/* After a wake-up: accounts made whose first balance found no room. */
void admin_balances_retry(struct admin *);
/* Look after the holds that are to be closed. */
void admin_endings_tick(struct admin *);
/* Log what was done for a caller, with the account, amount and key id of its call. */
void admin_log(const struct admin_call *, const char *what);

/* admin-accept.c */
int admin_listen(struct admin *) __attribute__((warn_unused_result));

/* admin-client.c */
/* Serve this connection; false if there is no room for it, and it stays the caller's. */
bool admin_client_new(struct admin *, int fd, const struct ucred *, bool full)
    __attribute__((warn_unused_result));
/* Go on with requests that found the ring full or the accounts not loaded. */
void admin_retry(void *admin);
void admin_clients_tick(struct admin *);
/* Close clients that wait for nothing; with `all` the others too. */
void admin_clients_close(struct admin *, bool all);

/* The methods, by file. */
admin_fn admin_account_create, admin_account_show, admin_account_list; /* admin-account.c */
admin_fn admin_account_set, admin_account_close;                       /* admin-set.c */
admin_fn admin_credit_topup, admin_credit_adjust;                      /* admin-credit.c */
admin_fn admin_key_create, admin_key_list, admin_key_revoke;           /* admin-key.c */
admin_fn admin_hold_list, admin_hold_void;                             /* admin-hold.c */
admin_fn admin_stream_list, admin_stream_cancel;
admin_fn admin_price_list, admin_price_set, admin_price_reset;          /* admin-price.c */
admin_fn admin_workers_list, admin_stats_get, admin_daemon_ping;       /* admin-report.c */
admin_fn admin_audit_run;                                              /* admin-audit.c */
admin_fn admin_journal_read;                                           /* admin-journal.c */
admin_fn admin_compact_run;                                            /* admin-compact.c */
admin_fn admin_backup_run;                                             /* admin-backup.c */
void admin_backup_stop(struct admin *);
admin_fn admin_daemon_reload, admin_daemon_drain;                       /* admin-reload.c */
/* What the master says. */
void admin_orders_cb(evutil_socket_t, short, void *admin);
/* Whose reload takes too long. */
void admin_reloads_tick(struct admin *);

#endif
