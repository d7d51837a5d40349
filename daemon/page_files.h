#ifndef DAEMON_PAGE_FILES_H
#define DAEMON_PAGE_FILES_H

#include <stdint.h>

/*
 * The chat page's files, one row each: a name for C, the path at which a worker serves it, its file
 * in daemon/page/, its media type.  This table makes the routes (worker.c), the bytes in the binary
 * (page_data.c) and what is answered (page.c).
 */
#define PAGE_FILES(X)                                                                  \
	X(index, "/", "index.html", "text/html; charset=utf-8")                        \
	X(css, "/page/page.css", "page.css", "text/css; charset=utf-8")                \
	X(theme, "/page/theme.js", "theme.js", "text/javascript; charset=utf-8")       \
	X(page, "/page/page.js", "page.js", "text/javascript; charset=utf-8")          \
	X(dom, "/page/dom.js", "dom.js", "text/javascript; charset=utf-8")             \
	X(words, "/page/words.js", "words.js", "text/javascript; charset=utf-8")       \
	X(talk, "/page/talk.js", "talk.js", "text/javascript; charset=utf-8")          \
	X(composer, "/page/composer.js", "composer.js", "text/javascript; charset=utf-8") \
	X(sidebar, "/page/sidebar.js", "sidebar.js", "text/javascript; charset=utf-8") \
	X(markdown, "/page/markdown.js", "markdown.js", "text/javascript; charset=utf-8") \
	X(inlines, "/page/inlines.js", "inlines.js", "text/javascript; charset=utf-8") \
	X(tolld, "/page/tolld.js", "tolld.js", "text/javascript; charset=utf-8")       \
	X(types, "/page/tolld.d.ts", "tolld.d.ts", "text/plain; charset=utf-8")        \
	X(icon, "/page/icon.svg", "icon.svg", "image/svg+xml")

#define PAGE_BYTES(id, path, file, type)           \
	extern const char page_##id[], page_##id##_gz[]; \
	extern const uint64_t page_##id##_len, page_##id##_gz_len;
PAGE_FILES(PAGE_BYTES)
#undef PAGE_BYTES

/* A hash of all files, in hexadecimal and without a line feed: the v of the paths with which they
 * name each other. */
extern const char page_version[];
extern const uint64_t page_version_len;

#endif
