/*
 * Goal:   what a fuzzer once found stays mended, also where there is no fuzzer.
 * Method: a fuzz target with this main reads every file of its corpus, tests/fuzz/corpus/NAME (the
 *         program's own name), or the files that it is given.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
replay(const char *path)
{
	static uint8_t bytes[1 << 20];
	FILE *file = fopen(path, "rb");
	uint8_t *exact;
	size_t n;

	if (file == NULL) {
		perror(path);
		return -1;
	}
	n = fread(bytes, 1, sizeof(bytes), file);
	(void)fclose(file);
	/* Memory of its size, so that a sanitizer sees who reads beyond it. */
	exact = malloc(n > 0 ? n : 1);
	if (exact == NULL)
		return -1;
	memcpy(exact, bytes, n);
	(void)fprintf(stderr, "%s\n", path); /* the last line tells which one did it */
	(void)LLVMFuzzerTestOneInput(exact, n);
	free(exact);
	return 0;
}

int
main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/');
	char folder[256], path[768];
	unsigned files = 0;
	struct dirent *e;
	DIR *dir;

	for (int i = 1; i < argc; i++)
		if (replay(argv[i]) != 0)
			return 1;
	if (argc > 1)
		return 0;
	(void)snprintf(folder, sizeof(folder), "tests/fuzz/corpus/%s",
	    slash != NULL ? slash + 1 : argv[0]);
	dir = opendir(folder);
	if (dir == NULL) {
		perror(folder);
		return 1;
	}
	while ((e = readdir(dir)) != NULL) {
		if (e->d_name[0] == '.')
			continue;
		(void)snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
		if (replay(path) != 0)
			return 1;
		files++;
	}
	(void)closedir(dir);
	return files == 0;
}
