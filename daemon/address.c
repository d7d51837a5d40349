/*
 * Addresses to listen on.  Pure; used by the config's check and by the master.
 * Only numeric addresses: a name would make a start depend on a resolver.
 */
#include "daemon/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/un.h>

static bool
parse_port(const char *text, in_port_t *port)
{
	unsigned value = 0;
	size_t digits = strspn(text, "0123456789");
	if (digits < 1 || digits > 5 || text[digits] || text[0] == '0')
		return false;
	for (; *text; text++)
		value = value * 10 + (unsigned)(*text - '0');
	*port = htons((uint16_t)value);
	return value <= 65535;
}

static bool
parse_unix(const char *path, struct address *a, const char **why)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	size_t len = strlen(path);
	if (len == 0) {
		*why = "no path after unix:";
		return false;
	}
	if (len >= sizeof(un.sun_path)) {
		*why = "the path of a unix socket has at most 107 bytes";
		return false;
	}
	memcpy(un.sun_path, path, len + 1);
	memcpy(&a->sockaddr, &un, sizeof(un));
	a->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
	return true;
}

static bool
parse_v6(const char *text, struct address *a, const char **why)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
	char host[INET6_ADDRSTRLEN];
	const char *end = strchr(text, ']');
	if (!end || (size_t)(end - text) > sizeof(host)) {
		*why = "not an IPv6 address in brackets";
		return false;
	}
	memcpy(host, text + 1, (size_t)(end - text - 1));
	host[end - text - 1] = 0;
	if (inet_pton(AF_INET6, host, &in6.sin6_addr) != 1) {
		*why = "not an IPv6 address in brackets";
		return false;
	}
	if (end[1] != ':' || !parse_port(end + 2, &in6.sin6_port)) {
		*why = "a port from 1 to 65535 is missing";
		return false;
	}
	memcpy(&a->sockaddr, &in6, sizeof(in6));
	a->len = sizeof(in6);
	return true;
}

bool
address_parse(const char *text, struct address *a, const char **why)
{
	struct sockaddr_in in = { .sin_family = AF_INET };
	char host[INET_ADDRSTRLEN];
	const char *colon = strrchr(text, ':');

	memset(a, 0, sizeof(*a));
	if (strncmp(text, "unix:", 5) == 0)
		return parse_unix(text + 5, a, why);
	if (text[0] == '[')
		return parse_v6(text, a, why);
	if (!colon || !parse_port(colon + 1, &in.sin_port)) {
		*why = "a port from 1 to 65535 is missing";
		return false;
	}
	if ((size_t)(colon - text) >= sizeof(host)) {
		*why = "not a numeric IP address";
		return false;
	}
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = 0;
	if (inet_pton(AF_INET, host, &in.sin_addr) != 1) {
		*why = strchr(host, ':') ? "an IPv6 address goes in brackets"
		                         : "not a numeric IP address";
		return false;
	}
	memcpy(&a->sockaddr, &in, sizeof(in));
	a->len = sizeof(in);
	return true;
}

bool
address_is_unix(const struct address *a)
{
	return a->sockaddr.ss_family == AF_UNIX;
}

const char *
address_path(const struct address *a)
{
	return ((const struct sockaddr_un *)(const void *)&a->sockaddr)->sun_path;
}

bool
address_parse_host(const char *text, size_t len, uint8_t out[static 16])
{
	char host[INET6_ADDRSTRLEN];

	if (len == 0 || len >= sizeof host)
		return false;
	memcpy(host, text, len);
	host[len] = '\0';
	if (inet_pton(AF_INET6, host, out) == 1)
		return true;
	memset(out, 0, 10);
	out[10] = out[11] = 0xff;
	return inet_pton(AF_INET, host, out + 12) == 1;
}

bool
address_parse_net(const char *text, struct address_net *net)
{
	size_t len = strcspn(text, "/");
	unsigned most, bits = 0;

	if (!address_parse_host(text, len, net->address))
		return false;
	most = memchr(text, ':', len) != NULL ? 128 : 32;
	if (text[len] == '\0')
		bits = most;
	else {
		const char *p = text + len + 1;

		if (*p == '\0' || strspn(p, "0123456789") != strlen(p) || strlen(p) > 3)
			return false;
		for (; *p != '\0'; p++)
			bits = bits * 10 + (unsigned)(*p - '0');
	}
	if (bits > most)
		return false;
	net->bits = (uint8_t)(bits + 128 - most);
	return true;
}

bool
address_net_has(const struct address_net *net, const uint8_t address[static 16])
{
	unsigned whole = net->bits / 8, rest = net->bits % 8;

	return memcmp(net->address, address, whole) == 0 &&
	    (rest == 0 || (net->address[whole] ^ address[whole]) >> (8 - rest) == 0);
}
