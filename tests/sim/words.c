/*
 * The simulator's texts.  One literal text for each language and one cutter that follows the
 * habits of a BPE's pre-tokenizer (a word with the space before it, up to three digits, a run of
 * punctuation), so that the pieces look and measure like a provider's tokens and an answer is the
 * same every time.  The count of pieces is near, not equal to, what a real tokenizer says.
 */
#include "words.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "words_exact.h"

struct lang_text {
	const char *name;
	size_t piece_max; /* bytes; set so that a piece is about one token */
	const char *text;
};

static const struct lang_text lang_texts[LANG_MAX] = {
    [LANG_EN] = {"en", 16,
        "The road to the old mill runs along the river, past a row of white houses and a small "
        "shop that has been closed since spring. Nobody knows why the owner left. Some people "
        "say that he went to the city to look for his brother; others think that he simply had "
        "enough of the rain.\n\nOn the first day of every month, however, a light burns in the "
        "window above the door, and in the morning there are fresh flowers on the step. I asked "
        "my neighbour about it once. She smiled, put down her cup, and said: \"Come back in "
        "winter, and I will tell you the whole story.\" So I waited for 12 weeks.\n\n"},
    [LANG_RU] = {"ru", 12,
        "Дорога к старой мельнице идёт вдоль реки, мимо ряда белых домов и маленькой лавки, "
        "которая закрыта с самой весны. Никто не знает, почему уехал хозяин. Одни говорят, что "
        "он отправился в город искать брата; другие думают, что ему просто надоел дождь.\n\n"
        "Но в первый день каждого месяца в окне над дверью горит свет, а утром на ступеньке "
        "лежат свежие цветы. Однажды я спросил об этом соседку. Она улыбнулась, поставила чашку "
        "и сказала: «Приходите зимой, и я расскажу вам всю историю». Я ждал 12 недель.\n\n"},
    [LANG_ZH] = {"zh", 6,
        "通往旧磨坊的路沿着河流延伸，经过一排白色的房子和一家从春天起就关门的小店。没有人知道"
        "店主为什么离开。有人说他去城里找他的兄弟，也有人认为他只是受够了雨天。\n\n"
        "但是每个月的第一天，门上的窗户里都会亮起一盏灯，早上台阶上总有新鲜的花。我曾经问过"
        "邻居这件事。她笑了笑，放下杯子说：“冬天再来吧，我会把整个故事告诉你。”\n\n"},
    [LANG_CODE] = {"code", 16,
        "#include <stdio.h>\n\n/* Greatest common divisor. */\nstatic unsigned\n"
        "gcd(unsigned a, unsigned b)\n{\n\twhile (b != 0) {\n\t\tunsigned t = a % b;\n"
        "\t\ta = b;\n\t\tb = t;\n\t}\n\treturn a;\n}\n\nint\nmain(void)\n{\n"
        "\tprintf(\"%u\\n\", gcd(1071, 462));\n\treturn 0;\n}\n\n"},
    [LANG_EMOJI] = {"emoji", 4,
        "😀🎉👍🏽 ❤️ 🚀🌍 👨‍👩‍👧‍👦 🇫🇷🇯🇵 ✨🔥 "
        "🏳️‍🌈 "
        "🥳🤖 "
        "💡☕️ "
        "🧑🏿‍🚀\n"},
    [LANG_JSON] = {"json", 16,
        "{\"id\": 1071, \"name\": \"old mill\", \"open\": false, \"tags\": [\"river\", \"white\", "
        "\"closed\"], \"position\": {\"lat\": 48.137, \"lon\": 11.575}, \"note\": \"said \\\"come "
        "back\\\"\\n\", \"next\": null},\n"},
    /* Every piece is exactly five bytes, so that a reader knows the tokens from the bytes. */
    [LANG_EVEN] = {"even", 5,
        " that with have this will your from they know want been good much some time very when "
        "come here just like long make many more only over such take than them well were what"},
};

/* The bytes of the character at s: a stray or cut-off byte counts as one. */
static size_t
char_len(const char *s, size_t left)
{
	unsigned char c = (unsigned char)*s;
	size_t n = c < 0xc0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf8 ? 4 : 1;

	if (n > left)
		return 1;
	for (size_t i = 1; i < n; i++)
		if (((unsigned char)s[i] & 0xc0) != 0x80)
			return 1;
	return n;
}

enum class { CLASS_LETTER, CLASS_DIGIT, CLASS_SPACE, CLASS_PUNCT };

static enum class class_of(char ch) {
	unsigned char c = (unsigned char)ch;

	if (c >= 0x80 || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	    c == '_') return CLASS_LETTER;
	if (c >= '0' && c <= '9') return CLASS_DIGIT;
	if (c == ' ' || c == '\n' || c == '\t' || c == '\r') return CLASS_SPACE;
	return CLASS_PUNCT;
}

static size_t
piece_len(const char *s, size_t left, size_t piece_max)
{
	size_t n = 0, room = piece_max;
	enum class class;

	if (s[0] == ' ' && left > 1 && class_of(s[1]) != CLASS_SPACE)
		n = 1;
	class = class_of(s[n]);
	if (class == CLASS_DIGIT && room > n + 3)
		room = n + 3;
	n += char_len(s + n, left - n);
	while (n < left && class_of(s[n]) == class) {
		size_t more = char_len(s + n, left - n);

		if (n + more > room)
			break;
		/* The last space of a run belongs to the word after it. */
		if (class == CLASS_SPACE && s[n] == ' ' && n + 1 < left &&
		    class_of(s[n + 1]) != CLASS_SPACE)
			break;
		n += more;
	}
	return n;
}

size_t
words_escape(char *dst, const char *src, size_t len)
{
	static const char hex[] = "0123456789abcdef";
	char *p = dst;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)src[i];

		if (c == '"' || c == '\\') {
			*p++ = '\\';
			*p++ = (char)c;
		} else if (c == '\n' || c == '\t' || c == '\r') {
			*p++ = '\\';
			*p++ = c == '\n' ? 'n' : c == '\t' ? 't' : 'r';
		} else if (c < 0x20) {
			memcpy(p, "\\u00", 4);
			p[4] = hex[c >> 4];
			p[5] = hex[c & 15];
			p += 6;
		} else
			*p++ = (char)c;
	}
	return (size_t)(p - dst);
}

void
words_cut(struct pieces *out, const char *text, size_t len, size_t piece_max)
{
	size_t count = 0;
	char *p;

	for (size_t at = 0; at < len; count++)
		at += piece_len(text + at, len - at, piece_max);
	out->v = calloc(count + 1, sizeof(*out->v));
	out->store = p = malloc(6 * len + 1);
	if (out->v == NULL || p == NULL) {
		perror("tolld-sim");
		exit(1);
	}
	out->n = out->len_max = 0;
	for (size_t at = 0; at < len;) {
		size_t raw = piece_len(text + at, len - at, piece_max);
		size_t n = words_escape(p, text + at, raw);

		out->v[out->n++] = (struct piece){p, (uint32_t)n, 1};
		if (n > out->len_max)
			out->len_max = n;
		p += n;
		at += raw;
	}
}

void
words_free(struct pieces *ps)
{
	free(ps->v);
	free(ps->store);
	*ps = (struct pieces){0};
}

int
words_lang_find(const char *name, size_t len)
{
	for (int i = 0; i < LANG_MAX; i++)
		if (strlen(lang_texts[i].name) == len && memcmp(lang_texts[i].name, name, len) == 0)
			return i;
	return -1;
}

const struct pieces *
words_lang(enum lang lang)
{
	static struct pieces made[LANG_MAX];
	const struct lang_text *t = &lang_texts[lang];

	if (made[lang].v == NULL)
		words_cut(&made[lang], t->text, strlen(t->text), t->piece_max);
	return &made[lang];
}

int
words_exact_find(const char *name)
{
	return strcmp(name, "o200k_base") == 0    ? EXACT_O200K
	       : strcmp(name, "cl100k_base") == 0 ? EXACT_CL100K
	                                          : -1;
}

const struct pieces *
words_exact(enum lang lang, enum exact exact)
{
	static struct pieces made[LANG_MAX][EXACT_CL100K];
	const struct exact_cut *cut = exact_cuts[exact - 1][lang];
	struct pieces *out = &made[lang][exact - 1];
	const char *text = lang_texts[lang].text;
	char *p;

	if (out->v != NULL)
		return out;
	while (cut[out->n].bytes > 0)
		out->n++;
	out->v = calloc(out->n, sizeof(*out->v));
	out->store = p = malloc(6 * strlen(text) + 1);
	if (out->v == NULL || p == NULL) {
		perror("tolld-sim");
		exit(1);
	}
	for (size_t i = 0; i < out->n; text += cut[i++].bytes) {
		size_t n = words_escape(p, text, cut[i].bytes);

		out->v[i] = (struct piece){p, (uint32_t)n, cut[i].tokens};
		if (n > out->len_max)
			out->len_max = n;
		p += n;
	}
	return out;
}

void
words_print(void)
{
	for (int i = 0; i < LANG_MAX; i++) {
		const char *text = lang_texts[i].text;
		char *escaped = malloc(6 * strlen(text) + 1);

		if (escaped == NULL)
			exit(1);
		printf("%s\"%s\":\"%.*s\"", i == 0 ? "{" : ",", lang_texts[i].name,
		    (int)words_escape(escaped, text, strlen(text)), escaped);
		free(escaped);
	}
	printf("}\n");
}
