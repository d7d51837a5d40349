#!/bin/sh
#
# Installs what Debian 12 and 13 and Ubuntu 24.04 lack to build, check and measure tolld.
#
# usage: etc/install-deps.sh [GROUP...]           install what is missing (default: build)
#        etc/install-deps.sh --missing GROUP...   only say what is missing; exit 1 if anything is
#        etc/install-deps.sh --list [GROUP...]    what each group needs, and why
#
# Groups: build demo check bench npm page texts metrics model fuzz lint deb deb-check full.
# Does nothing, and calls no apt, when all is there.  Uses sudo when it isn't root.

set -u

# group | command, or - for a library | package, or alternatives in order | why
# A tool counts as there when its command is, wherever it came from; a library when dpkg says so.
table='
build | gcc        | gcc                             | the compiler
build | make       | make                            | runs it all
build | pkg-config | pkgconf|pkg-config              | finds the libraries
build | -          | libc6-dev                       | the C library
build | -          | libevent-dev                    | event loops of workers and admin
build | -          | libcurl4-openssl-dev|libcurl4-gnutls-dev | calls to the providers
build | -          | libmsgpack-c-dev|libmsgpack-dev | the admin socket'\''s protocol
build | -          | liblmdb-dev                     | the journal
build | -          | libconfuse-dev                  | the config file
build | -          | libjansson-dev                  | JSON off the hot path
build | -          | libjwt-dev                      | tokens that others sign
build | -          | libwslay-dev                    | the framing of WebSockets
build | -          | libseccomp-dev                  | the list of system calls that each process may make
build | xz         | xz-utils                        | unpacks the vocabularies
build | -          | libssl-dev                      | hashes of keys and of the journal
demo  | python3    | python3                         | drives the demo
check | -          | libcmocka-dev                   | unit tests
check | python3    | python3                         | end-to-end tests
check | node       | nodejs                          | a second opinion on HTTP (llhttp)
check | curl       | curl                            | a second opinion on streams
check | ps         | procps                          | process titles as ps shows them
check | -          | python3-msgpack                 | runs the document'\''s example
bench | python3    | python3                         | runs the rounds
bench | nginx      | nginx-light|nginx               | to be compared with
bench | redis-server | redis-server                   | to be compared with
bench | pgbench    | postgresql                      | to be compared with
bench | -          | libsqlite3-dev                  | to be compared with
npm   | node       | nodejs                          | runs other tokenizers
npm   | npm        | npm                             | brings them
npm   | xz         | xz-utils                        | unpacks the vocabularies
page  | node       | nodejs                          | drives the browser
page  | npm        | npm                             | brings what drives it
page  | python3    | python3                         | starts the daemon for it
page  | chromium   | chromium|chromium-browser       | the browser
page  | -          | fonts-inter                     | what its pictures are written in
page  | -          | fonts-liberation                | the same, for code
texts | -          | manpages                        | English, to be counted
texts | -          | manpages-ru                     | Russian
texts | -          | manpages-zh                     | Chinese
model | spin       | spin                            | checks the model of the ledger
model | gcc        | gcc                             | compiles what spin writes
model | -          | libc6-dev                       | for that
check | bash       | bash                            | completions
check | mandoc     | mandoc                          | checks the man pages
check | nginx      | nginx-light|nginx               | the front that is tried
check | -          | python3-jsonschema              | answers against docs/openapi.yaml
check | -          | python3-yaml                    | reads it
deb   | dh         | debhelper                       | makes the package
deb   | dpkg-shlibdeps | dpkg-dev                    | with it
deb-check | lintian    | lintian                         | checks it
deb-check | debootstrap | debootstrap                    | a system to install it into
deb-check | systemd-nspawn | systemd-container           | boots it
fuzz  | clang      | clang                           | libFuzzer
fuzz  | -          | libclang-rt-dev|clang           | its runtime
fuzz  | afl-clang-fast | afl++                       | fuzzes the same entry points
fuzz  | -          | libcmocka-dev                   | linked as the unit tests are
lint  | clang      | clang                           | a second opinion on warnings
lint  | cppcheck   | cppcheck                        | static analysis
lint  | mandoc     | mandoc                          | checks the man pages
lint  | python3    | python3                         | checks who includes whom
lint  | git        | git                             | lists the files
metrics | promtool | prometheus                      | reads metrics and tries the alerts
full  | caddy      | caddy                           | the other front that is tried
full  | zsh        | zsh                             | completions
full  | valgrind   | valgrind                        | finds leaks and wild reads
'

usage() {
    sed -n '3,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# The groups that a group stands for.
expand() {
    case $1 in
    build | model | metrics | npm | texts | deb) echo "$1" ;;
    deb-check) echo "deb deb-check" ;;
    demo | check | bench | page | fuzz | lint) echo "build $1" ;;
    full) echo "build demo check bench npm page texts metrics model fuzz lint full" ;;
    *) return 1 ;;
    esac
}

# Debian's package names of the libraries that are installed, between blanks.
installed_packages() {
    command -v dpkg-query >/dev/null 2>&1 || return 0
    # shellcheck disable=SC2016,SC2046
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' \
        $(echo "$table" | cut -d '|' -f 2- | grep '^ *- ' | sed 's/^ *- *|//; s/ *| *[^|]*$//' |
            tr '|' '\n' | sort -u) 2>/dev/null |
        sed -n 's/^installed //p' | tr '\n' ' '
}

# Is one row's command or package there?
is_there() { # command, alternatives
    if [ "$1" != - ]; then
        command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]
        return
    fi
    for name in $(echo "$2" | tr '|' ' '); do
        case $installed in *" $name "*) return 0 ;; esac
    done
    return 1
}

# Lines "alternatives<TAB>why" of the rows of the groups that are missing (or all with `all`).
rows() { # all|missing
    seen=' '
    echo "$table" | while IFS= read -r row; do
        [ -n "$row" ] || continue
        group=$(trim "${row%%|*}") rest=${row#*|}
        tool=$(trim "${rest%%|*}") rest=${rest#*|}
        why=$(trim "${rest##*|}") packages=$(trim "${rest%|*}")
        case " $groups " in *" $group "*) ;; *) continue ;; esac
        case $seen in *" $packages "*) continue ;; esac
        if [ "$1" = missing ] && is_there "$tool" "$packages"; then
            continue
        fi
        seen="$seen$packages "
        printf '%s\t%s\n' "$packages" "$why"
    done
}

trim() {
    set -f
    # shellcheck disable=SC2086
    set -- $1
    set +f
    echo "$*"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    else
        echo "install-deps: not root, and there is no sudo; run as root: $*" >&2
        return 1
    fi
}

has_candidate() {
    apt-cache policy "$1" 2>/dev/null | grep -q '^  Candidate: [^(]'
}

# The first alternative that this release has; the first at all if none is known.
choose() {
    for name in $(echo "$1" | tr '|' ' '); do
        if has_candidate "$name"; then
            echo "$name"
            return 0
        fi
    done
    echo "${1%%|*}"
    return 1
}

choose_all() {
    chosen='' known=0
    for alternatives in $(echo "$wanted" | cut -f 1); do
        name=$(choose "$alternatives") || known=1
        chosen="$chosen $name"
    done
    return $known
}

# shellcheck disable=SC2086
install() {
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "install-deps: no apt-get here; install these (or what they are called):" >&2
        echo "$wanted" | sed 's/^/    /' >&2
        return 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    # A mirror that hiccups, or another apt at work (a fresh machine's), is no reason to fail.
    apt_options='-o Acquire::Retries=3 -o DPkg::Lock::Timeout=120'
    updated=0
    if ! choose_all; then # no package lists yet, as in a fresh container
        as_root apt-get $apt_options update -qq || return 1
        updated=1
        choose_all
    fi
    echo "install-deps: installing$chosen" >&2
    echo "$wanted" | sed 's/^/    /' >&2
    as_root apt-get $apt_options install -y -qq --no-install-recommends $chosen >&2 && return 0
    [ $updated = 1 ] && return 1
    # Lists that are too old name files that are gone.
    as_root apt-get $apt_options update -qq || return 1
    as_root apt-get $apt_options install -y -qq --no-install-recommends $chosen >&2
}

mode=install
case ${1-} in
--missing | --list)
    mode=${1#--}
    shift
    ;;
esac
if [ $# = 0 ]; then
    [ "$mode" = missing ] && usage
    if [ "$mode" = list ]; then set -- full; else set -- build; fi
fi
groups=
for group; do
    more=$(expand "$group") || usage
    groups="$groups $more"
done

if [ "$mode" = list ]; then
    rows all
    exit 0
fi
installed=" $(installed_packages)"
wanted=$(rows missing)
[ -n "$wanted" ] || exit 0
if [ "$mode" = missing ]; then
    echo "$wanted"
    exit 1
fi
install
