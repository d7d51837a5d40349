/*
 * tollctl top: a screen of what goes on, renewed every interval; or with --count, --json or no
 * terminal one report after the other.
 */
#include <inttypes.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "admin/top.h"
#include "shm/money.h"

#define SPARKS_MAX 240
#define ROWS_WITHOUT_SCREEN 20

enum { ARG_INTERVAL, ARG_COUNT, ARG_SORT };

struct screen {
	struct termios before; /* of the terminal */
	bool live;             /* on a terminal, and its whole screen is ours */
	bool utf8, paused;
	unsigned rows, columns;
	enum top_order order;
	int64_t spark[SPARKS_MAX]; /* tokens a second, the newest last */
	unsigned sparks;
};

static const char *const order_names[TOP_ORDERS] = {"tokens", "credits", "streams", "name"};

static volatile sig_atomic_t ended; /* by a signal */

static void
on_signal(int sig)
{
	ended = sig;
}

static void
on_resize(int sig)
{
	(void)sig; /* it interrupts poll */
}

/* The terminal. */

static bool
screen_begin(struct screen *s)
{
	/* What is written is not to fail by a window that changes; poll ends by it all the same. */
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &s->before) != 0)
		return false;
	raw = s->before;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	raw.c_cc[VSUSP] = _POSIX_VDISABLE; /* the screen would be left as it is */
	(void)sigemptyset(&sa.sa_mask);
	(void)sigaction(SIGINT, &sa, NULL);
	(void)sigaction(SIGTERM, &sa, NULL);
	(void)sigaction(SIGHUP, &sa, NULL);
	sa.sa_handler = on_resize;
	(void)sigaction(SIGWINCH, &sa, NULL);
	if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw) != 0)
		return false;
	/* The other screen, without a cursor; lines are cut at its edge and not folded. */
	(void)fputs("\033[?1049h\033[?7l\033[?25l", stdout);
	s->live = true;
	return true;
}

static void
screen_end(struct screen *s)
{
	if (!s->live)
		return;
	(void)fputs("\033[?7h\033[?25h\033[?1049l", stdout);
	(void)fflush(stdout);
	(void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &s->before);
	s->live = false;
}

static void
measure(struct screen *s)
{
	struct winsize w;

	s->rows = ROWS_WITHOUT_SCREEN + 8;
	s->columns = 100;
	if (s->live && ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row > 0 && w.ws_col > 0) {
		s->rows = w.ws_row;
		s->columns = w.ws_col;
	}
}

/* Drawing. */

static void
end_line(const struct screen *s)
{
	/* What stood behind it before. */
	(void)fputs(s->live ? "\033[K\r\n" : "\n", stdout);
}

static void
show_time(int64_t us, char text[static 16])
{
	if (us < 0)
		(void)snprintf(text, 16, "-");
	else if (us < 10000)
		(void)snprintf(text, 16, "%.1f ms", (double)us / 1e3);
	else if (us < 1000000)
		(void)snprintf(text, 16, "%" PRId64 " ms", us / 1000);
	else
		(void)snprintf(text, 16, "%.1f s", (double)us / 1e6);
}

static void
draw_sparks(const struct screen *s, unsigned width)
{
	static const char *const bars[] = {
	    "\u2581", "\u2582", "\u2583", "\u2584", "\u2585", "\u2586", "\u2587", "\u2588"};
	static const char ascii[] = "_.-:=+*#";
	unsigned n = s->sparks < width ? s->sparks : width;
	int64_t most = 1;

	for (unsigned i = s->sparks - n; i < s->sparks; i++)
		most = s->spark[i] > most ? s->spark[i] : most;
	for (unsigned i = s->sparks - n; i < s->sparks; i++) {
		size_t step = (size_t)(s->spark[i] * 7 / most);

		if (s->utf8)
			(void)fputs(bars[step], stdout);
		else
			(void)putchar(ascii[step]);
	}
}

/* Columns that a name takes: characters, not bytes. */
static int
name_width(const char *name, int most, size_t *bytes)
{
	int width = 0;
	size_t at = 0, len = strlen(name);

	while (at < len && width < most) {
		size_t n = proto_utf8(name + at, len - at);

		at += n == 0 ? 1 : n;
		width++;
	}
	*bytes = at;
	return width;
}

static void
draw_row(const struct screen *s, const struct top_row *r, bool times, int names)
{
	char credits[MONEY_TEXT_MAX], p50[16] = "", p99[16] = "";
	size_t bytes;
	int width = name_width(r->name, names, &bytes);

	(void)money_format(credits, r->credits);
	if (times) {
		show_time(r->p50_us, p50);
		show_time(r->p99_us, p99);
	}
	(void)printf("%.*s%*s %8" PRIu32 " %8" PRIu32 " %10" PRId64 " %12s", (int)bytes, r->name,
	    names - width, "", r->streams, r->waiting, r->tokens, credits);
	if (times)
		(void)printf(" %9s %9s", p50, p99);
	end_line(s);
}

static void
draw_table(const struct screen *s, const char *title, const struct top_table *t, unsigned rows,
    bool times)
{
	int names = (int)s->columns - 62;

	if (rows < 2)
		return;
	names = names < 16 ? 16 : names > 64 ? 64 : names;
	end_line(s);
	(void)printf("%s%-*s %8s %8s %10s %12s%s%s", s->live ? "\033[7m" : "", names, title, "STREAMS",
	    "WAITING", "TOKENS/s", "CREDITS/s", times ? "  TTFT p50  TTFT p99" : "",
	    s->live ? "\033[0m" : "");
	end_line(s);
	for (uint32_t i = 0; i < t->count && i < rows - 2; i++)
		draw_row(s, &t->row[i], times, names);
}

static void
draw_summary(const struct screen *s, const struct top *t)
{
	char credits[MONEY_TEXT_MAX], p50[16], p99[16], clock[16];
	time_t now = time(NULL);
	struct tm tm;

	if (localtime_r(&now, &tm) == NULL || strftime(clock, sizeof clock, "%H:%M:%S", &tm) == 0)
		clock[0] = 0;
	(void)money_format(credits, t->all.credits);
	show_time(t->all.p50_us, p50);
	show_time(t->all.p99_us, p99);
	(void)printf("tolld %s   streams %" PRIu32 ", %" PRIu32 " waiting   first token p50 %s, p99 %s%s",
	    clock, t->all.streams, t->all.waiting, p50, p99, s->paused ? "   PAUSED" : "");
	end_line(s);
	(void)printf("%" PRId64 " tokens/s   %s credits/s   ", t->all.tokens, credits);
	if (s->columns > 60)
		draw_sparks(s, s->columns - 50 < SPARKS_MAX ? s->columns - 50 : SPARKS_MAX);
	end_line(s);
}

static void
draw(const struct screen *s, const struct top *t)
{
	unsigned rows = s->rows > 4 ? s->rows - 4 : 0, models;

	if (s->live)
		(void)fputs("\033[H", stdout);
	draw_summary(s, t);
	/* Half for the models, or what they need; the rest for the accounts. */
	models = t->models.count + 2 < rows / 2 ? t->models.count + 2 : rows / 2;
	draw_table(s, "MODEL", &t->models, models, true);
	draw_table(s, "ACCOUNT", &t->accounts, rows - models, false);
	if (s->live) {
		(void)fputs("\033[J", stdout);
		(void)printf("\033[%u;1Hby %s   t tokens  c credits  s streams  n name  "
		             "space %s  q quit\033[K",
		    s->rows, order_names[s->order], s->paused ? "goes on" : "pauses");
	}
	(void)fflush(stdout);
}

static void
json_row(const struct top_row *r, const char *key, bool times)
{
	char credits[MONEY_TEXT_MAX];

	(void)printf("{");
	if (key != NULL) {
		(void)printf("\"%s\":", key);
		print_json_text(r->name, strlen(r->name));
		(void)printf(",");
	}
	(void)money_format(credits, r->credits);
	(void)printf("\"streams\":%" PRIu32 ",\"waiting\":%" PRIu32 ",\"tokens_per_second\":%" PRId64
	             ",\"credits_per_second\":%s",
	    r->streams, r->waiting, r->tokens, credits);
	if (times && r->p50_us >= 0)
		(void)printf(",\"first_token_p50_ms\":%.3f,\"first_token_p99_ms\":%.3f",
		    (double)r->p50_us / 1e3, (double)r->p99_us / 1e3);
	else if (times)
		(void)printf(",\"first_token_p50_ms\":null,\"first_token_p99_ms\":null");
}

static void
json_table(const char *name, const char *key, const struct top_table *t, bool times)
{
	(void)printf(",\"%s\":[", name);
	for (uint32_t i = 0; i < t->count; i++) {
		(void)fputs(i > 0 ? "," : "", stdout);
		json_row(&t->row[i], key, times);
		(void)printf("}");
	}
	(void)printf("]");
}

static void
json(const struct top *t)
{
	json_row(&t->all, NULL, true);
	json_table("models", "model", &t->models, true);
	json_table("accounts", "account", &t->accounts, false);
	(void)printf("}\n");
	(void)fflush(stdout);
}

/* Keys and time. */

static uint64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* False: it is to end. */
static bool
obey(struct screen *s, struct top *t, char key)
{
	static const char keys[TOP_ORDERS] = {'t', 'c', 's', 'n'};

	if (key == 'q' || key == 'Q')
		return false;
	if (key == ' ')
		s->paused = !s->paused;
	for (int i = 0; i < TOP_ORDERS; i++)
		if (key == keys[i])
			s->order = (enum top_order)i;
	top_sort(t, s->order);
	return true;
}

/* Until it is time to look again; false: it is to end. */
static bool
wait_until(struct screen *s, struct top *t, uint64_t until_ms)
{
	uint64_t now;

	while ((now = now_ms()) < until_ms || s->paused) {
		struct pollfd fd = {.fd = s->live ? STDIN_FILENO : -1, .events = POLLIN};
		int ready = poll(&fd, 1, s->paused ? -1 : (int)(until_ms - now));
		char key;

		if (ended != 0)
			return false;
		if (ready > 0 && (read(STDIN_FILENO, &key, 1) != 1 || !obey(s, t, key)))
			return false;
		if (ready != 0 && s->live) {
			measure(s);
			draw(s, t);
		}
	}
	return ended == 0;
}

static void
remember(struct screen *s, int64_t tokens)
{
	if (s->sparks == SPARKS_MAX) {
		memmove(s->spark, s->spark + 1, (SPARKS_MAX - 1) * sizeof s->spark[0]);
		s->sparks--;
	}
	s->spark[s->sparks++] = tokens;
}

static enum ctl_exit
show(struct ctl *ctl, struct screen *s, struct top *t, uint64_t interval_ms, int64_t count)
{
	uint64_t next = now_ms();
	enum ctl_exit e = top_look(ctl, t);

	/* After the first look, for what that may complain of. */
	if (e == CTL_DONE && count < 0 && !ctl->json && isatty(STDIN_FILENO) != 0 &&
	    isatty(STDOUT_FILENO) != 0)
		(void)screen_begin(s);
	while (e == CTL_DONE && count != 0) {
		if (s->live) {
			measure(s);
			draw(s, t);
		}
		next += interval_ms;
		/* After a pause, or a daemon that took its time. */
		if (next < now_ms())
			next = now_ms() + interval_ms;
		if (!wait_until(s, t, next))
			break;
		e = top_look(ctl, t);
		if (e != CTL_DONE)
			break;
		top_sort(t, s->order);
		remember(s, t->all.tokens);
		measure(s);
		if (ctl->json)
			json(t);
		else if (!s->live)
			draw(s, t);
		if (count > 0)
			count--;
	}
	return e;
}

static bool
order_of(const char *name, enum top_order *order)
{
	for (int i = 0; i < TOP_ORDERS; i++)
		if (strcmp(name, order_names[i]) == 0) {
			*order = (enum top_order)i;
			return true;
		}
	(void)fprintf(stderr, "tollctl: --sort: tokens, credits, streams or name\n");
	return false;
}

static enum ctl_exit
top(struct ctl *ctl, const struct command *c)
{
	struct screen *s = calloc(1, sizeof *s);
	struct top t = {0};
	int64_t interval = ctl->given[ARG_INTERVAL] != NULL ? ctl->number[ARG_INTERVAL] : 1;
	int64_t count = ctl->given[ARG_COUNT] != NULL ? ctl->number[ARG_COUNT] : -1;
	enum ctl_exit e = CTL_USAGE;

	(void)c;
	if (s == NULL) {
		(void)fprintf(stderr, "tollctl: out of memory\n");
		return CTL_REFUSED;
	}
	if (interval < 1 || interval > 3600)
		(void)fprintf(stderr, "tollctl: --interval: from 1s to 1h\n");
	else if (ctl->given[ARG_SORT] == NULL || order_of(ctl->given[ARG_SORT], &s->order)) {
		s->utf8 = setlocale(LC_CTYPE, "") != NULL && strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
		e = show(ctl, s, &t, (uint64_t)interval * 1000, count);
		if (s->live && e != CTL_DONE) {
			screen_end(s);
			(void)fprintf(stderr, "tollctl: the daemon does not answer any more\n");
		}
		screen_end(s);
	}
	top_free(&t);
	free(s);
	return e;
}

const struct command cmd_top = {
    "top", "stats.get", "Show what goes on, live: streams, tokens and credits a second, time to the first token.",
    {
	{"--interval", "TIME", NULL, CMD_DURATION, false, "between two looks; default 1s"},
	{"--count", "N", NULL, CMD_COUNT, false, "print so many reports, one after the other, and end"},
	{"--sort", "WHAT", NULL, CMD_TEXT, false, "tokens (default), credits, streams or name"},
	{0},
    },
    top,
};
