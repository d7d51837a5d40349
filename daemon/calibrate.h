#ifndef DAEMON_CALIBRATE_H
#define DAEMON_CALIBRATE_H

/*
 * What providers' usage taught about our counts, model by model: a moving average of theirs ÷
 * ours, in a file of state_dir that all processes map, so that it outlives restarts and crashes.
 * It sets the factor of models whose tokenizer is "estimate", and tells of those whose exact one
 * is the wrong one.
 *
 * The factor is the average, two mean deviations and a twentieth more, and never outside
 * CALIBRATE_MIN..CALIBRATE_MAX; until CALIBRATE_SAMPLES answers are known it is not below the
 * tokenizer's own (1.4).
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/config.h"
#include "daemon/tokenizer.h"

#define CALIBRATE_MIN TOKENS_SCALE       /* 1.0 */
#define CALIBRATE_MAX (2 * TOKENS_SCALE) /* 2.0 */
#define CALIBRATE_SAMPLES 8
#define CALIBRATE_TOKENS_MIN 50 /* shorter answers teach nothing */
/* An exact tokenizer that is off by more, on average of so many answers, is named. */
#define CALIBRATE_DRIFT_PERCENT 2
#define CALIBRATE_DRIFT_SAMPLES 20

/*
 * Master, before the first fork: map the file, give each model of the config its place.  -1 with
 * errno; then nothing is learnt and nothing known.
 */
int calibrate_open(struct config *, const char *path, uid_t owner)
    __attribute__((warn_unused_result));

/*
 * Give each model of another config its place.  Master, with `make`, before anybody else gets that
 * config; then whoever does, without it.
 */
void calibrate_config(struct config *, bool make);

/* The factor of a model's counts now, in 1 / TOKENS_SCALE.  Any process. */
uint32_t calibrate_scale(const struct config_model *);

/*
 * An answer that we counted as `ours` (before the factor) was `theirs` by the provider.  Any
 * worker.  True, once a start: the model's exact tokenizer is not the provider's.
 */
bool calibrate_learn(const struct config_model *, uint32_t ours, uint32_t theirs);
/* The average of theirs ÷ ours so far, in 1 / TOKENS_SCALE; 0: nothing is known. */
uint32_t calibrate_mean(const struct config_model *);

#endif
