/* A request to the simulated provider: the HTTP head, and the chat call in its body. */
#ifndef TOLLD_SIM_REQUEST_H
#define TOLLD_SIM_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define REQUEST_HEAD_MAX 65536
#define REQUEST_BODY_MAX (16u << 20)

/* What a request's path says it speaks. */
enum speak { SPEAK_OPENAI, SPEAK_OLLAMA, SPEAK_ANTHROPIC };

struct request {
	enum speak dialect;
	char method[12];
	char target[128]; /* without the query */
	bool http10, keepalive, chunked, expect, auth;
	bool count;     /* /v1/messages/count_tokens */
	int64_t length; /* of the body; 0 where none is announced */
	char ua[128];
	char id[80]; /* x-request-id */
	char bearer[256];  /* Authorization */
	char api_key[256]; /* x-api-key */
	char version[32];  /* anthropic-version */
};

/* Parse a head.  Returns its length, 0 if it is not whole yet, -400 or -431 if it is bad. */
ssize_t request_head(struct request *, const char *buf, size_t len);

/*
 * Undo a chunked body in place.  Returns the bytes of buf it took, 0 if it is not whole yet, -400
 * if it is bad; *body_len is what came out, at the start of buf.  Nothing moves until it is whole.
 */
ssize_t request_unchunk(char *buf, size_t len, size_t *body_len);

struct chat {
	char *
	    model; /* the caller's to free; NULL if there was none; may hold any character but NUL */
	size_t model_len;
	bool stream, include_usage, logprobs;
	unsigned choices;     /* OpenAI's n, 1 to CHOICES_MAX */
	int64_t max_tokens;   /* -1: not given */
	int64_t prompt_bytes; /* of all contents */
};

#define CHOICES_MAX 9

/* Parse a chat call of a dialect.  On -1, *err is a sentence and *param the field at fault or NULL. */
int chat_parse(
    enum speak, struct chat *, const char *body, size_t len, const char **err, const char **param);

/* A call for embeddings: the vectors that are wanted, of how many numbers each. */
struct embed {
	char *model; /* the caller's to free, as above */
	size_t model_len;
	size_t inputs;
	int64_t dimensions;
	bool base64;
	int64_t prompt_tokens;
};

int embed_parse(struct embed *, const char *body, size_t len, const char **err, const char **param);

#endif
