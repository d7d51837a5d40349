#ifndef DAEMON_ADDRESS_H
#define DAEMON_ADDRESS_H

/*
 * Where to listen, as the config says it: "127.0.0.1:8080", "[::1]:8080" or "unix:PATH".
 * Pure; any process.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
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

/* A network, or one address; IPv4 in its mapped form. */
struct address_net {
	uint8_t address[16];
	uint8_t bits;
};

/* An address alone: "192.0.2.1", "2001:db8::1".  False if it is none. */
bool address_parse_host(const char *text, size_t len, uint8_t out[static 16]);
/* "192.0.2.1", "10.0.0.0/8", "2001:db8::/32". */
bool address_parse_net(const char *text, struct address_net *);
bool address_net_has(const struct address_net *, const uint8_t address[static 16]);

#endif
