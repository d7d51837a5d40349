#ifndef DAEMON_JOURNAL_HISTORY_ROWS_H
#define DAEMON_JOURNAL_HISTORY_ROWS_H

/* The history's keys and rows as they lie in journal.mdb; for journal_history*.c only. */
#include "daemon/journal_private.h"

struct history_session_key {
	uint8_t account[4];
	uint8_t session[16];
};
_Static_assert(sizeof(struct history_session_key) == 20, "history_session_key");

struct history_session_row {
	uint64_t first, latest; /* turns */
	uint64_t created_us, updated_us;
	uint32_t turns, pad;
};
_Static_assert(sizeof(struct history_session_row) == 40, "history_session_row");

struct history_list_key {
	uint8_t account[4];
	uint8_t latest[8];
};
_Static_assert(sizeof(struct history_list_key) == 12, "history_list_key");

struct history_list_row {
	uint8_t session[16];
	uint64_t updated_us;
};
_Static_assert(sizeof(struct history_list_row) == 24, "history_list_row");

struct history_turn_key {
	struct history_session_key session;
	uint8_t turn[8];
};
_Static_assert(sizeof(struct history_turn_key) == 28, "history_turn_key");

struct history_turn_row {
	uint8_t stream_id[16], message_id[16];
	uint64_t opened_us, ended_us; /* ended_us 0: it was not ended */
	int64_t charge;
	uint32_t slot, generation;
	uint32_t prompt, cached, completion; /* at the end: what was charged for */
	uint8_t proc, outcome;
	uint8_t ended;     /* HISTORY_VOIDED; above it enum journal_short, 0 in former rows */
	uint8_t model_len; /* the model's name follows */
};
_Static_assert(sizeof(struct history_turn_row) == 80, "history_turn_row");

#define HISTORY_VOIDED 1u
#define HISTORY_SHORT_SHIFT 1

struct history_text_key {
	uint8_t turn[8];
	uint8_t sequence[8];
};

struct history_open_row {
	uint64_t turn;
	struct history_session_key session;
	uint32_t pad;
};
_Static_assert(sizeof(struct history_open_row) == 32, "history_open_row");

#endif
