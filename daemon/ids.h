#ifndef DAEMON_IDS_H
#define DAEMON_IDS_H

/*
 * Ids that clients see, as base64url text without padding.
 *
 * A stream id is 16 random bytes (the capability) behind which stand the process slot and its
 * generation: whoever gets it knows which worker to ask.  Session and message ids are 16 random
 * bytes.  Pure but for the random source; any process.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ID_LEN 22        /* text of 16 bytes */
#define STREAM_ID_LEN 28 /* text of 21 bytes */

struct stream_id {
	uint8_t secret[16];
	uint8_t proc;
	uint32_t generation;
};

/* n random bytes; fatal if the kernel has none. */
void id_random(void *out, size_t n);

void id_format(const uint8_t id[static 16], char text[static ID_LEN + 1]);
bool id_parse(const char *text, size_t len, uint8_t id[static 16]);

void stream_id_format(const struct stream_id *, char text[static STREAM_ID_LEN + 1]);
bool stream_id_parse(const char *text, size_t len, struct stream_id *);

#endif
