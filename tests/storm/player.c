/*
 * What the storm's players share: a handle to the ledger, waiting for the keeper, waking it.
 */
#include "tests/storm/player.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "shm/ring.h"
#include "shm/wake.h"

/* Until the keeper has said something new, but not for long. */
void
player_rest(struct player *p, uint64_t seen)
{
	struct pollfd fd = {.fd = p->h->wake_fd[p->proc], .events = POLLIN};

	wake_prepare(p->region, p->proc);
	if (ring_durable(p->ring) == seen)
		(void)poll(&fd, 1, 1);
	wake_done(p->region, p->proc, fd.fd);
}

void
player_wake_keeper(struct player *p, bool now)
{
	int fd = p->h->wake_fd[PROC_KEEPER];

	if (now)
		wake_keeper_now(p->region, fd);
	else
		wake(p->region, PROC_KEEPER, fd);
}

void
storm_account_id(uint32_t account, char id[static 16])
{
	(void)snprintf(id, 16, "account-%u", account);
}

bool
player_start(struct player *p, struct heritage *h, uint32_t proc, uint64_t seed)
{
	*p = (struct player){.h = h, .region = &h->region, .proc = proc, .rng = seed};
	p->ledger = ledger_new(p->region, proc);
	if (p->ledger == NULL) {
		storm_fail("no memory");
		return false;
	}
	p->ring = ledger_ring(p->ledger);
	return true;
}

int
player_push_and_wait(struct player *p, const struct journal_record *r, const void *payload, size_t len)
{
	uint64_t position = ring_push(p->ring, r, payload, len), durable;

	if (position == 0)
		return -1;
	player_wake_keeper(p, false);
	while ((durable = ring_durable(p->ring)) < position) {
		if (atomic_load(&told->failed))
			return -1;
		player_rest(p, durable);
	}
	return 0;
}

struct account *
player_account(const struct player *p, uint32_t number)
{
	char id[16];

	storm_account_id(number, id);
	return account_find(p->region, id, strlen(id));
}
