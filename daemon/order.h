#ifndef DAEMON_ORDER_H
#define DAEMON_ORDER_H

/*
 * Messages between the master and its children, over heritage.order_ours and order_theirs: short
 * texts with descriptors, never blocking.  Only the admin process has anything to ask of the
 * master; nobody else is listened to.
 */
#include <stddef.h>
#include <stdint.h>

enum order_kind {
	/* The master's. */
	ORDER_CONFIG = 1, /* a config's record, then tokenizers' tables, whose names are the text,
			     each with its NUL; `number` of the first of them.  daemon/renew.h */
	ORDER_LEAVE,      /* to a worker: another one has its listeners */
	ORDER_REPORT,     /* to the admin process: what became of its `number`th wish; a text file */
	/* The admin process's. */
	ORDER_RELOAD, /* as HUP */
	ORDER_DRAIN,  /* as TERM */
	ORDER_KEEP,   /* take nothing new, and stay */
	ORDER_RESUME, /* the end of that */
};

#define ORDER_FDS_MAX 65
#define ORDER_TEXT_MAX 32768

struct order {
	uint32_t kind, generation;
	uint64_t number;
};

struct order_received {
	struct order order;
	size_t len;
	char text[ORDER_TEXT_MAX];
	int fd[ORDER_FDS_MAX];
	int fds;
};

/* -1 with errno: it is not sent (EAGAIN: the other side does not read). */
int order_send(int fd, const struct order *, const char *text, size_t len, const int fds[], int n)
    __attribute__((warn_unused_result));
/* 1: one came, its descriptors are the caller's; 0: there is none. */
int order_receive(int fd, struct order_received *) __attribute__((warn_unused_result));
void order_close(struct order_received *);

#endif
