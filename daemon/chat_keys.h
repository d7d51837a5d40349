#ifndef DAEMON_CHAT_KEYS_H
#define DAEMON_CHAT_KEYS_H

/*
 * Which keys of a request's body may go to a provider as they came.  Each -1 with *fault, which
 * names the key.  Pure.
 */
#include "daemon/chat_request.h"

/*
 * Refuse a key that is none of these (NULL-terminated), but that a provider's reader could take for
 * one: it would see two, and not the one that was checked here.
 */
int chat_keys_check(struct json_value root, const char *const names[], struct chat_fault *)
    __attribute__((warn_unused_result));
/* Refuse words of some provider's own for what is ours to set. */
int chat_keys_check_words(struct json_value root, struct chat_fault *)
    __attribute__((warn_unused_result));
/* Refuse what one of the model's providers is not to be asked for (`refuse` of its block). */
int chat_keys_check_refused(const struct config *, int model, struct json_value root,
    struct chat_fault *) __attribute__((warn_unused_result));

#endif
