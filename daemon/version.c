/*
 * What this program is.
 */
#include "daemon/version.h"

const char tolld_version[] = TOLLD_VERSION;
