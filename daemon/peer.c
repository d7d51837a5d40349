/*
 * Addresses of clients.
 */
#include "daemon/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "shm/stranger.h"

static bool
socket_address(int fd, uint8_t out[static 16])
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof ss;

	if (getpeername(fd, (struct sockaddr *)&ss, &len) < 0)
		return false;
	if (ss.ss_family == AF_INET6) {
		struct sockaddr_in6 in6;

		memcpy(&in6, &ss, sizeof in6);
		memcpy(out, &in6.sin6_addr, 16);
		return true;
	}
	if (ss.ss_family == AF_INET) {
		struct sockaddr_in in;

		memcpy(&in, &ss, sizeof in);
		memcpy(out, mapped, sizeof mapped);
		memcpy(out + 12, &in.sin_addr, 4);
		return true;
	}
	return false;
}

static bool
trusted(const struct config *cfg, const uint8_t address[static 16])
{
	for (int i = 0; i < cfg->proxy_count; i++)
		if (address_net_has(&cfg->proxy[i], address))
			return true;
	return false;
}

/* The last item of a list that is separated by commas, without blanks; it is taken off. */
static struct span
take_last(struct span *list)
{
	struct span item = {list->p + list->len, 0};

	while (list->len > 0 && item.p[-1] != ',') {
		item.p--;
		item.len++;
		list->len--;
	}
	if (list->len > 0)
		list->len--; /* the comma */
	while (item.len > 0 && (*item.p == ' ' || *item.p == '\t')) {
		item.p++;
		item.len--;
	}
	while (item.len > 0 && (item.p[item.len - 1] == ' ' || item.p[item.len - 1] == '\t'))
		item.len--;
	return item;
}

/* Go back through one header for as long as there are trusted proxies; false: it is over. */
static bool
go_back(const struct config *cfg, struct span list, uint8_t out[static 16])
{
	while (list.len > 0) {
		struct span item = take_last(&list);
		uint8_t address[16];

		/* What is no address is nobody we know of: the one who sent it answers for it. */
		if (!address_parse_host(item.p, item.len, address))
			return false;
		memcpy(out, address, 16);
		if (!trusted(cfg, address))
			return false;
	}
	return true;
}

bool
peer_client(const struct config *cfg, int fd, const struct http_request *rq, uint8_t out[static 16])
{
	if (!socket_address(fd, out))
		return false;
	if (!trusted(cfg, out))
		return true;
	/* Some proxies add to the header, some add another one: the last is the nearest. */
	for (int i = rq->headers; i-- > 0;)
		if (span_case_eq(rq->header[i].name, "x-forwarded-for") &&
		    !go_back(cfg, rq->header[i].value, out))
			break;
	return true;
}

static uint64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

bool
peer_may_ask(const struct config *cfg, const struct region *region, int fd,
    const struct http_request *rq, struct limit_state *s)
{
	uint8_t address[16];

	*s = (struct limit_state){0};
	if (cfg->limits.unauthenticated_per_minute == 0 || !peer_client(cfg, fd, rq, address))
		return true;
	stranger_look(region, stranger_hash(region, address),
	    cfg->limits.unauthenticated_per_minute, now_ns(), s);
	return s->retry_ns == 0;
}

bool
peer_asked(const struct config *cfg, const struct region *region, int fd,
    const struct http_request *rq, struct limit_state *s)
{
	uint8_t address[16];

	*s = (struct limit_state){0};
	if (cfg->limits.unauthenticated_per_minute == 0 || !peer_client(cfg, fd, rq, address))
		return true;
	return stranger_take(region, stranger_hash(region, address),
	    cfg->limits.unauthenticated_per_minute, now_ns(), s);
}
