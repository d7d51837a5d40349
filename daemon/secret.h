#ifndef DAEMON_SECRET_H
#define DAEMON_SECRET_H

/*
 * Memory for providers' keys: pages of their own that no core file holds (MADV_DONTDUMP), that
 * are not swapped out as far as the limits allow, and that are wiped when they are freed.  Any
 * process; fork copies them as they are.
 */
#include <stdbool.h>
#include <stddef.h>

/* Zeroed; fatal without memory. */
void *secret_new(size_t);
char *secret_strdup(const char *);
/* NULL is allowed. */
void secret_free(void *);
/*
 * No core file of this process at all, and no other process of its user may read its memory:
 * PR_SET_DUMPABLE.  Again after a change of user, which sets it anew.
 */
void secret_no_core(void);
/* Undo it, or not. */
void secret_allow_core(bool allowed);
/* Wipe every variable of the environment that holds this key: a child needs none of them. */
void secret_forget_environment(const char *key);

#endif
