/*
 * Taking over a config in a child.
 */
#include "daemon/renew.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/calibrate.h"
#include "daemon/config_change.h"
#include "daemon/config_record.h"
#include "daemon/log.h"
#include "daemon/tokenizer.h"
#include "shm/wake.h"

/* What is new in it was opened by the master, after our fork. */
static bool
adopt_tokenizers(const struct order_received *r)
{
	const char *name = r->text, *end = r->text + r->len;

	for (int i = 1; i < r->fds; i++) {
		size_t len = name < end ? strnlen(name, (size_t)(end - name)) : 0;

		if (len == 0 || name + len == end || tokenizer_adopt(name, r->fd[i]) != 0) {
			log_warn("a tokenizer of the new config");
			return false;
		}
		name += len + 1;
	}
	return true;
}

/* It was found good: what is wrong with it now is our machine's fault. */
static struct config *
make(const struct heritage *h, uint32_t proc, const struct order_received *r)
{
	char *said = NULL;
	size_t size;
	FILE *errors = open_memstream(&said, &size);
	struct config *c = NULL;
	const char *why;

	if (errors == NULL) {
		log_warn("the new config");
		return NULL;
	}
	if (r->fds >= 1 && adopt_tokenizers(r))
		c = config_record_read(r->fd[0], h->config->path, false, errors);
	fclose(errors);
	if (c == NULL)
		log_warnx("the new config is none here: %s", said);
	free(said);
	if (c == NULL)
		return NULL;
	if ((why = config_place(c, region_names(&h->region), false)) != NULL) {
		log_warnx("the new config: %s", why);
		config_free(c);
		return NULL;
	}
	config_carry(c, h->config, h->region.h->dims.ring_arena / 4, NULL);
	calibrate_config(c, false);
	if (proc < PROC_WORKER)
		config_forget_secrets(c);
	return c;
}

static void
refuse(struct heritage *h, uint32_t proc, uint32_t generation)
{
	/* Release: nothing of it is in force here. */
	atomic_store_explicit(&region_proc(&h->region, proc)->config_refused, generation,
	    memory_order_release);
	wake(&h->region, PROC_MASTER, h->wake_fd[PROC_MASTER]);
}

struct config *
renew_make(struct heritage *h, uint32_t proc, struct order_received *r)
{
	struct config *c = NULL;

	/* Older ones were for a process before us in this slot. */
	if (r->order.kind == ORDER_CONFIG && r->order.generation > h->generation) {
		c = make(h, proc, r);
		if (c == NULL)
			refuse(h, proc, r->order.generation);
	}
	order_close(r);
	return c;
}

void
renew_done(struct heritage *h, uint32_t proc, struct config *c, uint32_t generation, bool good)
{
	struct config *old = h->config;

	if (!good) {
		config_free(c);
		refuse(h, proc, generation);
		return;
	}
	h->config = c;
	h->generation = generation;
	log_set_format(c->log_format);
	log_set_modules(c->log_module, (size_t)c->log_modules);
	log_set_level(c->log_level); /* the master's may be another page: daemon/legacy.h */
	/* Release: who sees it finds all that this process did by the new one. */
	atomic_store_explicit(
	    &region_proc(&h->region, proc)->config, generation, memory_order_release);
	config_free(old);
	wake(&h->region, PROC_MASTER, h->wake_fd[PROC_MASTER]);
}
