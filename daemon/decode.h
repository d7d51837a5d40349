#ifndef DAEMON_DECODE_H
#define DAEMON_DECODE_H

/*
 * From a provider's bytes to a stream's text: framing, deltas, metering, and what the provider's
 * end means.  Worker; the callbacks of the stream's call.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/meter.h"
#include "daemon/upstream.h"

#define TOKEN_BYTES_MAX 128
#define STREAM_TEXT_MAX (8u << 20) /* a longer answer is ended as oversize */
#define ERROR_BODY_MAX 65536 /* more is not read of what is no stream */

struct stream;

void decode_head(void *stream, int status, const char *media_type, int64_t retry_after);
void decode_data(void *stream, const char *, size_t);
void decode_flush(void *stream);
void decode_end(void *stream, enum call_result, const char *why);
/* The present call was answered, but not with a stream: end it, what its body says so far is
 * enough. */
void decode_refused(struct stream *);
/* The meter: what text waited for is durable; a slice began. */
void decode_resume(void *stream, bool slice_began);
/* Nothing more of what the provider says is taken: METER_CUT or METER_OVER. */
void decode_cut(struct stream *, enum meter_result why);
/* It said far more than it was told to: count and log it. */
void decode_note_overrun(struct stream *);
/* The ring has room again. */
void decode_retry(void *stream);

#endif
