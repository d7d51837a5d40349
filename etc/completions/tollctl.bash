# bash completion for tollctl.  Made from `tollctl help --json` by etc/commands.py.

# The second words of a command's first one.
_tollctl_second() {
	case $1 in
	account) echo 'create show list set close' ;;
	hold) echo 'list void' ;;
	key) echo 'create list revoke' ;;
	price) echo 'list set reset' ;;
	stream) echo 'list cancel' ;;
	tokenizer) echo 'build' ;;
	esac
}

# What the running daemon lists: a field of each object.
_tollctl_list() { # field, words of the command
	local field=$1
	shift
	tollctl "${global[@]}" --json "$@" 2>/dev/null |
		grep -o "\"$field\":\"[^\"]*\"" | cut -d '"' -f 4 | sort -u
}

_tollctl_reply() { # words
	COMPREPLY=($(compgen -W "$*" -- "$cur"))
}

_tollctl_kind() { # kind, its words
	local kind=$1
	shift
	case $kind in
	words) _tollctl_reply "$@" ;;
	list) _tollctl_reply "$(_tollctl_list "$@")" ;;
	files) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")) ;;
	folders) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur")) ;;
	esac
}

_tollctl() {
	local cur=${COMP_WORDS[COMP_CWORD]} i word command='' options='' wants='' at=0 more=0
	local -a words=() global=() place=() given=()
	local -A value=()
	COMPREPLY=()

	# Ahead of the command: the global options.
	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		case $word in
		-s)
			global+=(-s "${COMP_WORDS[i + 1]}")
			if ((++i == COMP_CWORD)); then
				_tollctl_kind files
				return
			fi
			;;
		-*) ;;
		*) break ;;
		esac
	done
	words=("${COMP_WORDS[@]:i:COMP_CWORD-i}")
	if ((${#words[@]} == 0)); then
		case $cur in
		-*) _tollctl_reply -s --json -V --version -h --help ;;
		*) _tollctl_reply account adjust audit backup compact drain export help hold journal key ping price reload stats stream tokenizer tokens top topup version workers ;;
		esac
		return
	fi
	command=${words[0]}
	if [[ $command == help ]]; then
		case ${#words[@]} in
		1) _tollctl_reply account adjust audit backup compact drain export hold journal key ping price reload stats stream tokenizer tokens top topup version workers ;;
		2) _tollctl_reply "$(_tollctl_second "${words[1]}")" ;;
		esac
		return
	fi
	words=("${words[@]:1}")
	if [[ -n $(_tollctl_second "$command") ]]; then
		if ((${#words[@]} == 0)); then
			_tollctl_reply "$(_tollctl_second "$command")"
			return
		fi
		command+=" ${words[0]}"
		words=("${words[@]:1}")
	fi

	case $command in
	'account create')
		options='--balance --overdraft --rpm --tpm --streams --budget-day --budget-month'
		value[--balance]='none'
		value[--overdraft]='none'
		value[--rpm]='none'
		value[--tpm]='none'
		value[--streams]='none'
		value[--budget-day]='none'
		value[--budget-month]='none'
		place=('none')
		;;
	'account show')
		options=''
		place=('list id account list')
		;;
	'account list')
		options=''
		;;
	'account set')
		options='--overdraft --rpm --tpm --streams --budget-day --budget-month --unfreeze --reason'
		value[--overdraft]='none'
		value[--rpm]='none'
		value[--tpm]='none'
		value[--streams]='none'
		value[--budget-day]='none'
		value[--budget-month]='none'
		value[--reason]='none'
		place=('list id account list')
		;;
	'account close')
		options='--reason'
		value[--reason]='none'
		place=('list id account list')
		;;
	'topup')
		options='--ref'
		value[--ref]='none'
		place=('list id account list' 'none')
		;;
	'adjust')
		options='--reason --ref'
		value[--reason]='none'
		value[--ref]='none'
		place=('list id account list' 'none')
		;;
	'key create')
		options='--ttl --label --scope --model --cap --per --mint-others --trust-user-header --rpm --tpm --streams'
		value[--ttl]='none'
		value[--label]='none'
		value[--scope]='words chat embeddings mint'
		value[--model]='none'
		value[--cap]='none'
		value[--per]='words day month total'
		value[--rpm]='none'
		value[--tpm]='none'
		value[--streams]='none'
		place=('list id account list')
		;;
	'key list')
		options=''
		place=('list id account list')
		;;
	'key revoke')
		options=''
		place=('none')
		;;
	'price list')
		options=''
		;;
	'price set')
		options=''
		place=('list model price list' 'words prompt cached cache_write completion reasoning request' 'none')
		;;
	'price reset')
		options=''
		place=('list model price list' 'words prompt cached cache_write completion reasoning request all')
		;;
	'hold list')
		options=''
		;;
	'hold void')
		options=''
		place=('list hold hold list')
		;;
	'stream list')
		options=''
		;;
	'stream cancel')
		options=''
		place=('list stream_id stream list')
		;;
	'stats')
		options=''
		;;
	'top')
		options='--interval --count --sort'
		value[--interval]='none'
		value[--count]='none'
		value[--sort]='none'
		;;
	'workers')
		options=''
		;;
	'reload')
		options=''
		;;
	'drain')
		options='--keep --resume'
		;;
	'journal')
		options='--account --since --follow'
		value[--account]='list id account list'
		value[--since]='none'
		;;
	'export')
		options='--format --account --since'
		value[--format]='words csv jsonl'
		value[--account]='list id account list'
		value[--since]='none'
		;;
	'audit')
		options='--link'
		value[--link]='none'
		;;
	'backup')
		options=''
		place=('folders')
		;;
	'compact')
		options='--before --keep'
		value[--before]='none'
		value[--keep]='none'
		;;
	'tokens')
		options='--tokenizer --prefixes'
		value[--tokenizer]='words o200k_base cl100k_base estimate'
		place=('files')
		more=1
		;;
	'tokenizer build')
		options='-o --split'
		value[-o]='files'
		value[--split]='words cl100k_base o200k_base qwen tekken'
		place=('files')
		;;
	'ping')
		options=''
		;;
	'version')
		options=''
		;;
	*) return ;;
	esac

	# What stands there already.
	for word in "${words[@]}"; do
		if [[ $word == = ]]; then # --name=value is three words here
			continue
		elif [[ -n $wants ]]; then
			wants=''
		elif [[ $word == -* && -n ${value[$word]-} ]]; then
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
		_tollctl_kind ${value[$wants]}
	elif [[ $cur == -* ]]; then
		for word in "${given[@]}"; do
			options=" $options "
			options=${options/ $word / }
		done
		_tollctl_reply $options --json --help
	elif ((at < ${#place[@]})); then
		_tollctl_kind ${place[at]}
	elif ((more)); then
		_tollctl_kind files
	fi
}
complete -F _tollctl tollctl
