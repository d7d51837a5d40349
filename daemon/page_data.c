/*
 * The chat page's files as they are in the binary, plain and compressed.  GNUmakefile packs them
 * into PAGE_DIR before this is compiled.
 */
#include "daemon/page_files.h"

/* The bytes, and in 64 bits how many they are. */
#define INCLUDE(symbol, file)                                      \
	__asm__(".pushsection .rodata\n"                           \
	        ".global page_" #symbol ", page_" #symbol "_len\n" \
	        "page_" #symbol ":\n"                              \
	        ".incbin \"" PAGE_DIR "/" file "\"\n"              \
	        "1:\n"                                             \
	        ".balign 8\n"                                      \
	        "page_" #symbol "_len:\n"                          \
	        ".quad 1b - page_" #symbol "\n"                    \
	        ".popsection\n")

#define FILE_BYTES(id, path, file, type) \
	INCLUDE(id, file);               \
	INCLUDE(id##_gz, file ".gz");

PAGE_FILES(FILE_BYTES)
INCLUDE(version, "version");
