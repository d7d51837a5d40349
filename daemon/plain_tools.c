/*
 * OpenAI's tools and the choice among them, for who speaks another dialect.  Pure.
 */
#include "daemon/plain_request.h"

static int
bad_tool(struct chat_fault *f, const char *what)
{
	return chat_request_refuse(f, "tools", "'tools' has a tool %s", what);
}

int
plain_tool_read(const struct plain_dialect *dialect, struct json_value tool, struct plain_tool *t,
    struct chat_fault *f)
{
	struct json_value type, function, key, v;
	const char *it = NULL;

	*t = (struct plain_tool){0};
	if (!json_get(tool, "type", &type) || !json_is(type, "function"))
		return plain_refuse(dialect, "tools", "a tool that is no function", f);
	if (!json_get(tool, "function", &function) || function.type != JSON_OBJECT)
		return bad_tool(f, "without a 'function'");
	while (json_each(function, &it, &key, &v)) {
		if (plain_says_nothing(v) && !json_is(key, "parameters"))
			continue;
		if (json_is(key, "name"))
			t->name = v;
		else if (json_is(key, "description"))
			t->description = v;
		else if (json_is(key, "parameters"))
			t->parameters = v;
		else if (json_is(key, "strict"))
			t->strict = v;
		else
			return plain_refuse_key(dialect, "tools", "a function", key, f);
	}
	if (t->name.type != JSON_STRING || t->name.len <= 2)
		return bad_tool(f, "without a name");
	if (t->description.type != JSON_NONE && t->description.type != JSON_STRING)
		return bad_tool(f, "whose 'description' is no text");
	if (t->parameters.type == JSON_NULL)
		t->parameters = (struct json_value){0};
	if (t->parameters.type != JSON_NONE && t->parameters.type != JSON_OBJECT)
		return bad_tool(f, "whose 'parameters' are no object");
	return 0;
}

static int
read_choice(struct json_value v, struct plain_tools *t, struct chat_fault *f)
{
	static const char name[] = "tool_choice";
	struct json_value type, function;

	t->chosen = true;
	if (json_is(v, "auto"))
		t->choice = CHOICE_AUTO;
	else if (json_is(v, "none"))
		t->choice = CHOICE_NONE;
	else if (json_is(v, "required"))
		t->choice = CHOICE_REQUIRED;
	else if (json_get(v, "type", &type) && json_is(type, "function") &&
	         json_get(v, "function", &function) && json_get(function, "name", &t->name) &&
	         t->name.type == JSON_STRING)
		t->choice = CHOICE_ONE;
	else
		return chat_request_refuse(f, name,
		    "'%s' must be auto, none, required, or a function by its name, for this "
		    "model's provider",
		    name);
	return 0;
}

int
plain_tools_read(const struct plain_request *p, struct plain_tools *t, struct chat_fault *f)
{
	*t = (struct plain_tools){.list = p->field[PLAIN_TOOLS]};
	if (p->field[PLAIN_TOOL_CHOICE].type != JSON_NONE &&
	    read_choice(p->field[PLAIN_TOOL_CHOICE], t, f) != 0)
		return -1;
	t->one_at_a_time = p->field[PLAIN_PARALLEL_TOOL_CALLS].type == JSON_FALSE;
	if (t->list.type == JSON_NONE && (t->choice == CHOICE_REQUIRED || t->choice == CHOICE_ONE))
		return chat_request_refuse(
		    f, "tool_choice", "'tool_choice' asks for a call, and there are no 'tools'");
	return 0;
}
