#ifndef DAEMON_CONFIG_VALUE_H
#define DAEMON_CONFIG_VALUE_H

/*
 * One function for each kind of value in the config: put it in its field, or report what is
 * wrong with it.  For the tables in config_check.c.  Master.
 */
#include "daemon/config_file.h"

config_set_fn value_string; /* min..max bytes */
config_set_fn value_uint; /* uint32_t, min..max */
config_set_fn value_int; /* int, min..max */
config_set_fn value_money; /* int64_t of micro-credits, not negative */
config_set_fn value_bool; /* bool */
config_set_fn value_log_format; /* enum log_format */
config_set_fn value_log_level; /* enum log_level */
config_set_fn value_log_module; /* struct config: one more level of a module */
config_set_fn value_log_file; /* an absolute path or "" */
config_set_fn value_sandbox; /* enum sandbox_mode */
config_set_fn value_dialect; /* enum config_dialect */
config_set_fn value_tokenizer; /* const struct tokenizer * */
config_set_fn value_listen; /* struct config: one more address */
config_set_fn value_admin_listen; /* an address or "" */
config_set_fn value_base_url; /* struct config_provider: one more; http or https */
config_set_fn value_proxy; /* struct config: one more trusted proxy */
config_set_fn value_origin; /* struct config: one more origin */
config_set_fn value_api_key; /* struct config_provider: one more */
config_set_fn value_api_key_file; /* struct config_provider: its contents */
config_set_fn value_refuse; /* struct config_provider: names of fields */
config_set_fn value_ca_file; /* struct config_provider: the certificates in it */
config_set_fn value_nothing; /* looked up later, when all names are known */

#endif
