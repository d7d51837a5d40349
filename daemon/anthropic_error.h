#ifndef DAEMON_ANTHROPIC_ERROR_H
#define DAEMON_ANTHROPIC_ERROR_H

/* Anthropic's word for an error, by its HTTP status.  Pure. */
const char *anthropic_error_type(int status);

#endif
