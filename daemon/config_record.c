/*
 * Configs as files in memory.  Any process.
 */
#include "daemon/config_record.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/config_source.h"
#include "daemon/tokenizer.h"

#define NUMBER_MIN 512
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)

int
config_record_new(void)
{
	int fd = memfd_create("tolld: config", MFD_CLOEXEC | MFD_ALLOW_SEALING), high;

	/* Not where a service manager's sockets may be missing (inherited.h). */
	high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, NUMBER_MIN);
	if (high >= 0) {
		close(fd);
		fd = high;
	}
	return fd;
}

struct config *
config_record_load(int record, const char *path, FILE *errors)
{
	struct config *c;
	bool good;

	(void)config_source_record(record);
	c = config_load(path, errors);
	good = config_source_record(-1) && fcntl(record, F_ADD_SEALS, SEALS) == 0;
	if (c != NULL && !good) {
		fprintf(errors, "%s: what was read cannot be kept: %s\n", path, strerror(errno));
		config_free(c);
		c = NULL;
	}
	return c;
}

/* Of the record that is being read. */
static bool
open_tokenizers(const char *path, FILE *errors)
{
	char name[PATH_MAX], why[256];
	size_t at = 0;

	while (config_source_tokenizer(&at, name, sizeof name))
		if (tokenizer_open(name, why, sizeof why) == NULL) {
			fprintf(errors, "%s: tokenizer %s: %s\n", path, name, why);
			return false;
		}
	return true;
}

struct config *
config_record_read(int record, const char *path, bool tokenizers, FILE *errors)
{
	struct config *c = NULL;
	struct stat st;
	void *bytes = MAP_FAILED;

	if (fstat(record, &st) == 0 && st.st_size > 0)
		bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, record, 0);
	if (bytes == MAP_FAILED) {
		fprintf(errors, "%s: the record of it cannot be read\n", path);
		return NULL;
	}
	config_source_replay(bytes, (size_t)st.st_size);
	if (!tokenizers || open_tokenizers(path, errors))
		c = config_load(path, errors);
	config_source_replay(NULL, 0);
	munmap(bytes, (size_t)st.st_size);
	return c;
}
