#ifndef DAEMON_ADDRESS_H
#define DAEMON_ADDRESS_H

/*
 * Where to listen, as the config says it: "127.0.0.1:8080", "[::1]:8080" or "unix:PATH".
 * Pure; any process.
 */
#include <stdbool.h>
#include <sys/socket.h>

struct address {
	struct sockaddr_storage sockaddr;
	socklen_t len;
};

/* False, and what is wrong with it in *why. */
bool address_parse(const char *text, struct address *, const char **why)
    __attribute__((warn_unused_result));
bool address_is_unix(const struct address *);
/* The path of a unix address. */
const char *address_path(const struct address *);

#endif
