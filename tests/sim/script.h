/* What one answer of the simulated provider should be like: the parsed `model` string. */
#ifndef TOLLD_SIM_SCRIPT_H
#define TOLLD_SIM_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "words.h"

enum usage_kind {
	USAGE_ASKED, /* as the request's stream_options say */
	USAGE_YES,
	USAGE_NO,
	USAGE_ZERO,
	USAGE_NULL,   /* "usage":null on every chunk, the real one at the end */
	USAGE_FINISH, /* in the chunk that carries finish_reason */
	USAGE_OVER,   /* usage_n completion tokens too many */
	USAGE_UNDER,
	USAGE_NEG,
	USAGE_HUGE, /* beyond 64 bits */
};

enum fault {
	FAULT_NONE,
	FAULT_CUT,       /* FIN without the last chunk */
	FAULT_RESET,     /* RST */
	FAULT_STALL,     /* silence for ever */
	FAULT_GARBAGE,   /* a data line that is not JSON */
	FAULT_BADUTF8,   /* bytes that are no UTF-8 inside the JSON string */
	FAULT_HALFUTF8,  /* the last delta ends within a character */
	FAULT_ERROR,     /* an error event, then a clean end */
	FAULT_ERRORDONE, /* an error event, then [DONE] */
	FAULT_GIANT,     /* a data line of 3 MiB */
	FAULT_NODONE,    /* a clean end without [DONE] */
	FAULT_NOFINISH,  /* [DONE], but no finish_reason */
	FAULT_DUPDONE,   /* [DONE] twice */
};

struct script {
	int64_t tokens; /* -1: not given */
	double rate;    /* tokens per second; 0: as fast as the socket takes them */
	int64_t delay_ms, first_ms, slowhdr_ms;
	enum lang lang;
	enum exact exact;
	bool stamp;
	int64_t batch, pack, split, gap_ms;
	bool crlf;
	enum usage_kind usage;
	int64_t usage_n;
	int64_t prompt; /* -1: from the length of the messages */
	int64_t cached, reason;
	bool role, comments, close, echo;
	char *text; /* NULL, or a literal answer, owned */
	size_t text_len;
	char *tool;  /* NULL, or the function that the answer calls; its text is the arguments */
	char *think; /* NULL, or what is thought aloud before the answer; both owned */
	enum fault fault;
	int64_t fault_at;    /* after so many tokens */
	int64_t status;      /* 0: none */
	int64_t retry_after; /* -1: none */
	bool html, json200, empty, badlen;
	char *key; /* NULL, or the bearer token that is demanded, owned */
};

/*
 * Parse `sim` or `sim:k=v,...`.  Returns 0, or -1 with a sentence that names the key in err; 1
 * if the string is no model of ours.  Call script_free() in every case.
 */
int script_parse(struct script *, const char *model, size_t len, char *err, size_t err_size);
void script_free(struct script *);

#endif
