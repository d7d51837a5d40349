/*
 * The journal's own protocol: a datagram a line, "KEY=value\n" a field; a value that has a line
 * feed in it as "KEY\n", its length in 8 bytes, little endian, the value and a line feed.  (systemd:
 * "Native Journal Protocol".)  So no value can end its field and begin another.
 *
 * The socket is connected before the first fork and inherited: a process that may open no socket
 * any more still has it.  When the journal's daemon is started anew systemd keeps the socket.
 */
#include "daemon/log_journal.h"

#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/log.h"

#define DATAGRAM_MAX 32768
#define MESSAGE_MAX (LOG_LINE_MAX + 1)
#define KEY_MAX 64 /* the journal's bound */

struct datagram {
	char bytes[DATAGRAM_MAX];
	size_t len;
};

static int journal_fd = -1;

bool
log_journal_there(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;
	char end;

	return stream != NULL && sscanf(stream, "%llu:%llu%c", &dev, &ino, &end) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

/* A field; left out if there is no room for all of it. */
static void
add(struct datagram *d, const char *key, const char *value)
{
	size_t key_len = strlen(key), len = strlen(value);
	bool plain = strchr(value, '\n') == NULL;
	uint64_t size = htole64(len);
	char *p = d->bytes + d->len;

	if (key_len + len + sizeof size + 3 > sizeof d->bytes - d->len)
		return;
	memcpy(p, key, key_len);
	p += key_len;
	*p++ = plain ? '=' : '\n';
	if (!plain) {
		memcpy(p, &size, sizeof size);
		p += sizeof size;
	}
	memcpy(p, value, len);
	p += len;
	*p++ = '\n';
	d->len = (size_t)(p - d->bytes);
}

/* "first_token_ms" is TOLLD_FIRST_TOKEN_MS. */
static void
add_field(struct datagram *d, const struct log_field *f)
{
	char key[KEY_MAX + 1];
	size_t n = 6;

	memcpy(key, "TOLLD_", 6);
	for (const char *p = f->key; *p != '\0' && n < KEY_MAX; p++) {
		bool letter = *p >= 'a' && *p <= 'z',
		     other = (*p >= '0' && *p <= '9') || *p == '_' || (*p >= 'A' && *p <= 'Z');

		key[n++] = letter ? (char)(*p - 'a' + 'A') : other ? *p : '_';
	}
	key[n] = '\0';
	add(d, key, f->value);
}

static bool
take(enum log_level level, const char *module, const char *msg, const struct log_field *field,
    size_t n)
{
	static const char *const priority[] = {"7", "6", "4", "3"};
	char message[MESSAGE_MAX];
	struct datagram d;
	ssize_t sent;

	d.len = 0;
	log_format_message(message, sizeof message, msg, field, n);
	add(&d, "MESSAGE", message);
	add(&d, "PRIORITY", priority[level]);
	add(&d, "SYSLOG_IDENTIFIER", "tolld");
	add(&d, "TOLLD_PROC", log_proc_name());
	add(&d, "TOLLD_MODULE", module);
	add(&d, "TOLLD_MSG", msg);
	for (size_t i = 0; i < n; i++)
		add_field(&d, &field[i]);
	do
		sent = send(journal_fd, d.bytes, d.len, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent >= 0;
}

int
log_journal_open(const char *socket_path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int fd, saved;

	if (strlen(socket_path) >= sizeof to.sun_path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(to.sun_path, socket_path, strlen(socket_path));
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
		saved = errno;
		close(fd);
		errno = saved;
		return -1;
	}
	journal_fd = fd;
	log_sink.take = take;
	return 0;
}
