#ifndef DAEMON_ANSWER_H
#define DAEMON_ANSWER_H

/*
 * An answer that is put into the client's dialect piece by piece: what was begun of it, and not
 * ended.  Pure.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "daemon/delta.h"

enum answer_open {
	OPEN_NONE,
	OPEN_TEXT,
	OPEN_THINKING,
	OPEN_CALL,
	OPEN_OTHER, /* of a kind that we don't write ourselves */
};

/* How far the client has it. */
struct answer_place {
	bool begun;
	uint8_t open;    /* enum answer_open */
	uint32_t blocks; /* begun so far; the open one is the last of them */
};

enum answer_kind { ANSWER_TEXT, ANSWER_REASONING, ANSWER_CALL };

/* What a provider says, as far as it is paid. */
struct answer_piece {
	enum answer_kind kind;
	int64_t index;        /* ANSWER_CALL: see struct delta_call */
	struct span id, name; /* likewise */
	struct span text;     /* or a call's arguments */
};

struct answer {
	struct answer_place at;
	bool whole;         /* it is put together here, to be sent in one piece */
	uint32_t calls;     /* begun so far */
	int64_t call;       /* the provider's index of the open one */
	char call_id[64];   /* as much of the provider's id as there is room for */
	bool has_arguments; /* the open one */
	/* Whole: what the dialect keeps until the end. */
	struct buf content, reasoning, tools, input;
};

/* Nothing was said; the kind of answer stays. */
void answer_forget(struct answer *);
bool answer_failed(const struct answer *); /* out of memory */
/*
 * Is this of the call that is open?  Some servers repeat id and name in every piece, others give
 * all calls the same index.
 */
bool answer_continues(const struct answer *, const struct answer_piece *);
/* Another call begins. */
void answer_begin_call(struct answer *, const struct answer_piece *);
/* Its id: the provider's, or one made of the answer's own. */
void answer_call_id(struct buf *, const struct answer *, const struct answer_piece *,
    const char *prefix, const char *answer_id);

#endif
