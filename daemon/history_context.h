#ifndef DAEMON_HISTORY_CONTEXT_H
#define DAEMON_HISTORY_CONTEXT_H

/* A session's past in front of a new message: the same for preview and send.  Worker. */
#include "daemon/chat_request.h"
#include "daemon/worker.h"
#include "shm/account.h"

/*
 * If the request names a session of this account and gives one message: its last questions with their
 * answers, as many as fit into the model's history_tokens and context.  `messages` is the caller's to
 * free, after the request.  -1 with *fault: it cannot be read now.
 */
int history_context(struct worker *, const struct account *, struct chat_request *,
    struct buf *messages, struct chat_fault *) __attribute__((warn_unused_result));

#endif
