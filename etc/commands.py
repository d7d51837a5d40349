#!/usr/bin/env python3
"""Write what follows from tollctl's table of commands: completions, and their list in tollctl(1).

    etc/commands.py TOLLCTL [--check]     rewrite the files; --check: only say which are stale

Run it (`make commands`) after a command or an option of tollctl was changed.
"""
import json
import os
import re
import subprocess
import sys
import textwrap

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAN = "docs/man/tollctl.1"
BASH = "etc/completions/tollctl.bash"
ZSH = "etc/completions/_tollctl"
MADE = "Made from `tollctl help --json` by etc/commands.py."

# What can be completed beyond names: choices that a value has.
CHOICES = {"--per": ["day", "month", "total"], "--scope": ["chat", "embeddings", "mint"],
           "--format": ["csv", "jsonl"], "--tokenizer": ["o200k_base", "cl100k_base", "estimate"],
           "--split": ["cl100k_base", "o200k_base", "qwen", "tekken"],
           "KIND": ["prompt", "cached", "cache_write", "completion", "reasoning", "request"]}
# And what the running daemon knows: the list that names it, and the field.
LISTS = {"ID": ("account list", "id"), "MODEL": ("price list", "model"),
         "HOLD": ("hold list", "hold"), "STREAM": ("stream list", "stream_id")}
FOLDERS = {"DIR"}
FILES = {"FILE", "FILE...", "-o"}


def options(command):
    return [a for a in command["arguments"] if a["name"].startswith("-")]


def places(command):
    return [a for a in command["arguments"] if not a["name"].startswith("-")]


def kind_of(command, argument):
    """How an argument is completed: ("words", …), ("list", key), "files", "folders" or None."""
    name = argument["name"]
    if command["command"] == "stream cancel" and name == "ID":
        name = "STREAM"
    if name == "ID" and command["command"] == "account create":
        return None
    if name == "--account":
        name = "ID"
    if name == "KIND" and command["command"] == "price reset":
        return "words", CHOICES["KIND"] + ["all"]
    if name in CHOICES:
        return "words", CHOICES[name]
    if name in LISTS:
        return "list", name
    if name in FOLDERS:
        return "folders", None
    if name in FILES:
        return "files", None
    return None


# --- mdoc ---------------------------------------------------------------------------------------

def mdoc_text(text):
    """Plain words, safe at the start of a line and within one, a sentence a line."""
    text = re.sub(r"(?<=[.:])\s+(?=[A-Z])", "\n", " ".join(text.split()))
    out = []
    for line in (x for y in text.split("\n") for x in
                 textwrap.wrap(y, 79, break_long_words=False, break_on_hyphens=False)):
        line = line.replace("\\", "\\e")
        out.append("\\&" + line if line[:1] in ".'" else line)
    return "\n".join(out)


def mdoc_argument(a):
    if a["name"].startswith("-"):
        flag = f"Fl {a['name'][1:]}" + (f" Ar {a['value']}" if a["value"] else "")
        return flag if a["required"] else f"Op {flag}"
    name = a["name"].removesuffix("...")
    text = f"Ar {name}" + (" ..." if a["type"] == "files" else "")
    return text if a["required"] else f"Op {text}"


def man_page(commands):
    out = [".Bl -tag -width Ds"]
    for c in commands:
        out += [".It Xo", f".Cm {c['command']}"]
        out += ["." + mdoc_argument(a) for a in c["arguments"]] + [".Xc"]
        out.append(mdoc_text(c["help"]))
        if c["arguments"]:
            out.append(".Bl -tag -width Ds -compact")
            for a in c["arguments"]:
                if a["name"].startswith("-"):
                    value = f" Ar {a['value']}" if a["value"] else ""
                    out.append(f".It Fl {a['name'][1:]}{value}")
                else:
                    out.append(f".It Ar {a['name'].removesuffix('...')}")
                out.append(mdoc_text(a["help"]))
            out.append(".El")
    out += [".It Xo", ".Cm help", ".Op Ar command", ".Xc",
            "Print the commands, or one command's arguments.", ".El"]
    with open(os.path.join(ROOT, MAN)) as f:
        text = f.read()
    begin, end = ".\\\" commands: begin\n", ".\\\" commands: end\n"
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    return head + begin + "\n".join(out) + "\n" + end + tail


# --- bash ---------------------------------------------------------------------------------------

def bash_case(c):
    """Lines of a case: what the options are, which take a value, and what follows what."""
    name = c["command"]
    lines = [f"\t'{name}')",
             f"\t\toptions='{' '.join(a['name'] for a in options(c))}'"]
    for a in options(c):
        if a["type"] == "flag":
            continue
        kind = kind_of(c, a)
        what = bash_kind(kind)
        lines.append(f"\t\tvalue[{a['name']}]='{what}'")
    if places(c):
        kinds = " ".join(f"'{bash_kind(kind_of(c, a))}'" for a in places(c))
        lines.append(f"\t\tplace=({kinds})")
        if any(a["type"] == "files" for a in places(c)):
            lines.append("\t\tmore=1")
    lines.append("\t\t;;")
    return lines


def bash_kind(kind):
    if kind is None:
        return "none"
    if kind[0] == "words":
        return "words " + " ".join(kind[1])
    if kind[0] == "list":
        return f"list {LISTS[kind[1]][1]} {LISTS[kind[1]][0]}"
    return kind[0]


def bash(commands):
    names = [c["command"] for c in commands]
    first = sorted({n.split()[0] for n in names} | {"help"})
    seconds = {}
    for n in names:
        if " " in n:
            seconds.setdefault(n.split()[0], []).append(n.split()[1])
    cases = "\n".join(line for c in commands for line in bash_case(c))
    groups = "\n".join(f"\t{g}) echo '{' '.join(w)}' ;;" for g, w in sorted(seconds.items()))
    return f'''# bash completion for tollctl.  {MADE}

# The second words of a command's first one.
_tollctl_second() {{
	case $1 in
{groups}
	esac
}}

# What the running daemon lists: a field of each object.
_tollctl_list() {{ # field, words of the command
	local field=$1
	shift
	tollctl "${{global[@]}}" --json "$@" 2>/dev/null |
		grep -o "\\"$field\\":\\"[^\\"]*\\"" | cut -d '"' -f 4 | sort -u
}}

_tollctl_reply() {{ # words
	COMPREPLY=($(compgen -W "$*" -- "$cur"))
}}

_tollctl_kind() {{ # kind, its words
	local kind=$1
	shift
	case $kind in
	words) _tollctl_reply "$@" ;;
	list) _tollctl_reply "$(_tollctl_list "$@")" ;;
	files) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")) ;;
	folders) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur")) ;;
	esac
}}

_tollctl() {{
	local cur=${{COMP_WORDS[COMP_CWORD]}} i word command='' options='' wants='' at=0 more=0
	local -a words=() global=() place=() given=()
	local -A value=()
	COMPREPLY=()

	# Ahead of the command: the global options.
	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${{COMP_WORDS[i]}}
		case $word in
		-s)
			global+=(-s "${{COMP_WORDS[i + 1]}}")
			if ((++i == COMP_CWORD)); then
				_tollctl_kind files
				return
			fi
			;;
		-*) ;;
		*) break ;;
		esac
	done
	words=("${{COMP_WORDS[@]:i:COMP_CWORD-i}}")
	if ((${{#words[@]}} == 0)); then
		case $cur in
		-*) _tollctl_reply -s --json -V --version -h --help ;;
		*) _tollctl_reply {' '.join(first)} ;;
		esac
		return
	fi
	command=${{words[0]}}
	if [[ $command == help ]]; then
		case ${{#words[@]}} in
		1) _tollctl_reply {' '.join(sorted({n.split()[0] for n in names}))} ;;
		2) _tollctl_reply "$(_tollctl_second "${{words[1]}}")" ;;
		esac
		return
	fi
	words=("${{words[@]:1}}")
	if [[ -n $(_tollctl_second "$command") ]]; then
		if ((${{#words[@]}} == 0)); then
			_tollctl_reply "$(_tollctl_second "$command")"
			return
		fi
		command+=" ${{words[0]}}"
		words=("${{words[@]:1}}")
	fi

	case $command in
{cases}
	*) return ;;
	esac

	# What stands there already.
	for word in "${{words[@]}}"; do
		if [[ $word == = ]]; then # --name=value is three words here
			continue
		elif [[ -n $wants ]]; then
			wants=''
		elif [[ $word == -* && -n ${{value[$word]-}} ]]; then
			wants=$word
			given+=("$word")
		elif [[ $word == -* ]]; then
			given+=("$word")
		else
			((at++))
		fi
	done
	if [[ -n $wants ]]; then
		[[ $cur == = ]] && cur=
		_tollctl_kind ${{value[$wants]}}
	elif [[ $cur == -* ]]; then
		for word in "${{given[@]}}"; do
			options=" $options "
			options=${{options/ $word / }}
		done
		_tollctl_reply $options --json --help
	elif ((at < ${{#place[@]}})); then
		_tollctl_kind ${{place[at]}}
	elif ((more)); then
		_tollctl_kind files
	fi
}}
complete -F _tollctl tollctl
'''


# --- zsh ----------------------------------------------------------------------------------------

def zsh_quote(text):
    return text.replace("'", "'\\''")


def zsh_text(text):
    """Within an _arguments specification: brackets and colons have a meaning there."""
    text = " ".join(text.split("\n")[0].split())
    return zsh_quote(text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
                     .replace(":", "\\:"))


def zsh_action(kind):
    if kind is None:
        return " "
    if kind[0] == "words":
        return "(" + " ".join(kind[1]) + ")"
    if kind[0] == "list":
        return f" _tollctl_list {LISTS[kind[1]][1]} {LISTS[kind[1]][0]}"
    return "_files" if kind[0] == "files" else "_files -/"


def zsh(commands):
    first = {}
    for c in commands:
        w = c["command"].split()
        first.setdefault(w[0], []).append(c)
    describe = "\n".join(
        f"\t\t'{w}:" + zsh_text(cs[0]["help"] if " " not in cs[0]["command"] else
                                ", ".join(c["command"].split()[1] for c in cs)) + "'"
        for w, cs in sorted(first.items()))
    groups = ""
    for w, cs in sorted(first.items()):
        if " " not in cs[0]["command"]:
            continue
        lines = "\n".join(f"\t\t\t'{c['command'].split()[1]}:{zsh_text(c['help'])}'" for c in cs)
        groups += f"\t{w})\n\t\tseconds=(\n{lines}\n\t\t)\n\t\t;;\n"
    cases = ""
    for c in commands:
        specs = []
        for a in options(c):
            if a["type"] == "flag":
                specs.append(f"'{a['name']}[{zsh_text(a['help'])}]'")
            else:
                # --name value and --name=value; -o only the former.
                sep = "=" if a["name"].startswith("--") else ""
                specs.append(f"'{a['name']}{sep}[{zsh_text(a['help'])}]:{zsh_text(a['value'])}:"
                             f"{zsh_quote(zsh_action(kind_of(c, a)))}'")
        for a in places(c):
            n = "*" if a["type"] == "files" else ""
            specs.append(f"'{n}:{zsh_text(a['name'])}:{zsh_quote(zsh_action(kind_of(c, a)))}'")
        specs += ["'--json[print JSON]'", "'--help[say what it takes]'"]
        cases += (f"\t'{c['command']}')\n\t\t_arguments -S \\\n\t\t\t"
                  + " \\\n\t\t\t".join(specs) + "\n\t\t;;\n")
    return f'''#compdef tollctl
# zsh completion for tollctl.  {MADE}

_tollctl_list() {{ # field, words of the command
	local field=$1
	local -a found
	shift
	found=(${{(f)"$(tollctl $global --json "$@" 2>/dev/null |
		grep -o "\\"$field\\":\\"[^\\"]*\\"" | cut -d '"' -f 4 | sort -u)"}})
	compadd -a found
}}

_tollctl() {{
	local context state state_descr line command
	local -a commands seconds global
	local -A opt_args

	_arguments -S -C \\
		'-s[the control socket]:socket:_files' \\
		'--json[print JSON]' \\
		'(-V --version)'{{-V,--version}}'[print the version]' \\
		'(-h --help)'{{-h,--help}}'[print the commands]' \\
		'1:command:->command' '*::argument:->argument' && return
	[[ -n ${{opt_args[-s]}} ]] && global=(-s ${{(Q)opt_args[-s]}})
	commands=(
{describe}
		'help:print the commands, or what one takes'
	)
	if [[ $state == command ]]; then
		_describe command commands
		return
	fi
	command=$words[1]
	if [[ $command == help && CURRENT -eq 2 ]]; then
		_describe command commands
		return
	fi
	case $command in
{groups}	esac
	if (( $#seconds )); then
		if (( CURRENT == 2 )); then
			_describe "$command" seconds
			return
		fi
		command+=" $words[2]"
		shift words
		(( CURRENT-- ))
	fi
	case $command in
{cases}	esac
}}

_tollctl "$@"
'''


def main():
    arguments = [a for a in sys.argv[1:] if a != "--check"]
    if len(arguments) != 1:
        sys.exit(__doc__.strip())
    commands = json.loads(subprocess.run([arguments[0], "help", "--json"], check=True,
                                         capture_output=True, text=True).stdout)
    stale = 0
    for path, text in ((MAN, man_page(commands)), (BASH, bash(commands)), (ZSH, zsh(commands))):
        full = os.path.join(ROOT, path)
        try:
            with open(full) as f:
                if f.read() == text:
                    continue
        except FileNotFoundError:
            pass
        stale += 1
        if "--check" in sys.argv:
            print(f"{path} does not fit tollctl's commands: make commands")
            continue
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w") as f:
            f.write(text)
        print(path)
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
