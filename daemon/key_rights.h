#ifndef DAEMON_KEY_RIGHTS_H
#define DAEMON_KEY_RIGHTS_H

/*
 * What a key is to be good for, as operators and clients write it.  Pure.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/books.h"
#include "daemon/config.h"
#include "shm/account.h"
#include "shm/journal_record.h"

struct key_rights {
	uint32_t scopes; /* KEY_SCOPE_..., KEY_MINT_OTHERS */
	size_t models_len;
	char models[KEY_MODELS_TEXT_MAX]; /* as in struct journal_key */
};

/* Each adds one name; false with *why, which is a literal. */
bool key_rights_scope(struct key_rights *, const char *name, size_t len, const char **why)
    __attribute__((warn_unused_result));
bool key_rights_model(struct key_rights *, const struct config *, const char *name, size_t len,
    const char **why) __attribute__((warn_unused_result));
/* The same for names with commas between them. */
bool key_rights_scopes(struct key_rights *, const char *names, size_t len, const char **why)
    __attribute__((warn_unused_result));
bool key_rights_models(struct key_rights *, const struct config *, const char *names, size_t len,
    const char **why) __attribute__((warn_unused_result));
/* Of "day", "month", "total"; KEY_PER_NONE if it is none of them. */
enum key_per key_rights_per(const char *name, size_t len);
const char *key_rights_per_name(uint32_t per);

#endif
