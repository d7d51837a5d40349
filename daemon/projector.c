/*
 * The keeper's second thread.  Runs in the keeper.
 */
#include "daemon/projector.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

struct projector {
	struct state *state;
	struct journal_reader *journal;
	struct state_job *job;
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t begin;
	bool given, stop;  /* under the mutex: there is a job; there will be no more */
	_Atomic bool done; /* the thread's last word on the job */
	bool busy;         /* the keeper's own */
	int fd;
};

/* The next job; false: there will be none. */
static bool
next(struct projector *p)
{
	bool given;

	(void)pthread_mutex_lock(&p->mutex);
	while (!p->given && !p->stop)
		(void)pthread_cond_wait(&p->begin, &p->mutex);
	given = p->given;
	p->given = false;
	(void)pthread_mutex_unlock(&p->mutex);
	return given;
}

static void *
work(void *arg)
{
	static const uint64_t one = 1;
	struct projector *p = arg;

	(void)prctl(PR_SET_NAME, "projector");
	while (next(p)) {
		state_write(p->state, p->job, p->journal);
		(void)pthread_mutex_lock(&p->mutex);
		/* Release: who sees it finds what the job has come to. */
		atomic_store_explicit(&p->done, true, memory_order_release);
		/* Cannot be full. */
		(void)!write(p->fd, &one, sizeof one);
		(void)pthread_mutex_unlock(&p->mutex);
	}
	return NULL;
}

/* With no signal but those that say where it crashed: all others are the keeper's. */
static int
start_thread(struct projector *p)
{
	static const int deadly[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP};
	sigset_t mask, before;
	int rc;

	(void)sigfillset(&mask);
	for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++)
		(void)sigdelset(&mask, deadly[i]);
	rc = pthread_sigmask(SIG_SETMASK, &mask, &before);
	if (rc == 0) {
		rc = pthread_create(&p->thread, NULL, work, p);
		(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	return rc;
}

struct projector *
projector_new(struct state *state, struct journal_reader *journal)
{
	struct projector *p = calloc(1, sizeof *p);
	int rc;

	if (p == NULL)
		return NULL;
	p->state = state;
	p->journal = journal;
	p->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	p->job = state_job_new();
	(void)pthread_mutex_init(&p->mutex, NULL);
	(void)pthread_cond_init(&p->begin, NULL);
	rc = p->fd < 0 ? errno : p->job == NULL ? ENOMEM : start_thread(p);
	if (rc == 0)
		return p;
	if (p->fd >= 0)
		close(p->fd);
	state_job_free(p->job);
	free(p);
	errno = rc;
	return NULL;
}

void
projector_free(struct projector *p)
{
	if (p == NULL)
		return;
	(void)pthread_mutex_lock(&p->mutex);
	p->stop = true;
	(void)pthread_cond_signal(&p->begin);
	(void)pthread_mutex_unlock(&p->mutex);
	(void)pthread_join(p->thread, NULL);
	(void)pthread_cond_destroy(&p->begin);
	(void)pthread_mutex_destroy(&p->mutex);
	close(p->fd);
	state_job_free(p->job);
	free(p);
}

struct state_job *
projector_job(struct projector *p)
{
	return p->job;
}

void
projector_start(struct projector *p)
{
	p->busy = true;
	(void)pthread_mutex_lock(&p->mutex);
	p->given = true;
	(void)pthread_cond_signal(&p->begin);
	(void)pthread_mutex_unlock(&p->mutex);
}

bool
projector_busy(const struct projector *p)
{
	return p->busy;
}

bool
projector_done(const struct projector *p)
{
	/* Acquire, pairs with the release above. */
	return p->busy && atomic_load_explicit(&p->done, memory_order_acquire);
}

bool
projector_wait(struct projector *p, int ms)
{
	struct pollfd fd = {.fd = p->fd, .events = POLLIN};

	if (!projector_done(p))
		(void)poll(&fd, 1, ms); /* an error is as good as a wake-up */
	return projector_done(p);
}

int
projector_fd(const struct projector *p)
{
	return p->fd;
}

void
projector_end(struct projector *p)
{
	uint64_t n;

	/* Under the mutex, so that it is written by now: it would keep us awake. */
	(void)pthread_mutex_lock(&p->mutex);
	(void)!read(p->fd, &n, sizeof n);
	atomic_store_explicit(&p->done, false, memory_order_relaxed);
	(void)pthread_mutex_unlock(&p->mutex);
	p->busy = false;
}
