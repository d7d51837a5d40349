"""Goal:   man pages and completions say what tollctl and the daemon take, and nothing else.
Method: what is made from tollctl's table is made again and compared; bash and zsh complete every
        command, with a daemon that knows names; the admin page against the daemon's table.
"""
import contextlib
import glob
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import unittest

from tolld import BUILD, ROOT, SLOW, Case, wait_for

CTL = os.path.join(BUILD, "tollctl")


def read(name):
    with open(os.path.join(ROOT, name)) as f:
        return f.read()


def table():
    return json.loads(subprocess.run([CTL, "help", "--json"], check=True, capture_output=True,
                                     text=True).stdout)


class Pages(unittest.TestCase):
    def test_what_is_made_is_fresh(self):
        p = subprocess.run([sys.executable, "-B", os.path.join(ROOT, "etc/commands.py"), CTL,
                            "--check"], capture_output=True, text=True)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)

    @unittest.skipUnless(shutil.which("mandoc"), "mandoc is not here")
    def test_mandoc_has_no_complaint(self):
        pages = sorted(glob.glob(os.path.join(ROOT, "docs/man/*")))
        self.assertEqual([os.path.basename(p) for p in pages],
                         ["tollctl.1", "tolld-admin.7", "tolld.8", "tolld.conf.5"])
        for page in pages:
            p = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page],
                               capture_output=True, text=True)
            self.assertEqual((p.returncode, p.stdout), (0, ""))

    def test_all_commands_and_options(self):
        """By the text that a reader sees, not by how it was made."""
        page = read("docs/man/tollctl.1")
        for c in table():
            block = re.search(r"\.It Xo\n\.Cm %s\n(.*?)\n\.El\n(?=\.It|\.El)" % c["command"]
                              if c["arguments"] else r"\.It Xo\n\.Cm %s\n(.*?)\.It" % c["command"],
                              page, re.S)
            self.assertTrue(block, c["command"])
            for a in c["arguments"]:
                name = a["name"].removesuffix("...")
                name = "Fl " + name[1:] if name.startswith("-") else "Ar " + name
                self.assertRegex(block.group(1), r"(?m)^\.It %s( |$)" % re.escape(name))

    def test_all_methods(self):
        source = read("daemon/admin-method.c").split("admin_methods[] = {")[1]
        methods = re.findall(r'\{"([a-z]+\.[a-z]+)",\s*admin_', source)
        self.assertGreater(len(methods), 20)
        page = read("docs/man/tolld-admin.7")
        told = re.findall(r"\.Ic ([a-z]+\.[a-z]+)$|\.It Ic ([a-z]+\.[a-z]+)", page, re.M)
        self.assertEqual(sorted(a or b for a, b in told), sorted(methods))
        # Each argument, as docs/admin-protocol.md has it.
        for method, arguments in re.findall(r"^\| `([a-z]+\.[a-z]+)` \| (.*?) \| ",
                                            read("docs/admin-protocol.md"), re.M):
            entry = page.split(f".Ic {method}\n")[1].split("\n.It")[0].split(".Xc")[0]
            names = re.sub(r"\(.*?\)|;.*", "", arguments)
            for name, optional in re.findall(r"`([a-z_]+)(\??)`", names):
                self.assertIn(f"{'.Op Ar' if optional else '.Ar'} {name}\n", entry, method)


class Completion(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.t.account("alice", "5")
        cls.t.account("bob", "5")
        cls.env = dict(os.environ, TOLLD_SOCKET=cls.t.socket,
                       PATH=BUILD + os.pathsep + os.environ["PATH"])

    def bash(self, lines):
        """What bash offers for each list of words, the last being unfinished."""
        script = f". {ROOT}/etc/completions/tollctl.bash\n" + r'''
try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _tollctl
        printf '%s\n' "${COMPREPLY[*]}"; }
complete -p tollctl >/dev/null || exit 1
while IFS= read -r line; do IFS=$'\t' read -ra words <<<"$line."; words[-1]=${words[-1]%.}
        try "${words[@]}"; done
'''
        p = subprocess.run(["bash", "--norc", "-c", script], env=self.env, text=True,
                           input="".join("\t".join(w) + "\n" for w in lines),
                           capture_output=True, timeout=120 * SLOW)
        self.assertEqual((p.returncode, p.stderr), (0, ""))
        out = [line.split() for line in p.stdout.split("\n")[:-1]]
        self.assertEqual(len(out), len(lines))
        return out

    def test_bash_offers_every_command(self):
        commands = [c["command"].split() for c in table()]
        first, = self.bash([["tollctl", ""]])
        self.assertEqual(first, sorted({c[0] for c in commands} | {"help"}))
        for word in first:
            seconds = [c[1] for c in commands if c[0] == word and len(c) == 2]
            got, helped = self.bash([["tollctl", "--json", word, ""],
                                     ["tollctl", "help", word, ""]])
            if seconds:
                self.assertEqual(got, seconds)
            self.assertEqual(helped, seconds)

    def test_bash_offers_every_option(self):
        commands = table()
        got = self.bash([["tollctl", *c["command"].split(), "-"] for c in commands])
        for c, options in zip(commands, got):
            self.assertEqual(sorted(options), sorted(
                [a["name"] for a in c["arguments"] if a["name"].startswith("-")]
                + ["--json", "--help"]), c["command"])

    def test_bash_knows_what_is_there(self):
        t = "tollctl"
        cases = [
            ([t, "account", "show", ""], ["alice", "bob"]),
            ([t, "account", "show", "b"], ["bob"]),
            ([t, "-s", self.t.socket, "topup", "a"], ["alice"]),
            ([t, "-s", "/nowhere", "topup", "a"], []),
            ([t, "account", "create", ""], []),
            ([t, "account", "show", "alice", ""], []),
            ([t, "journal", "--account", ""], ["alice", "bob"]),
            ([t, "journal", "--account", "=", "al"], ["alice"]),
            ([t, "journal", "--account", "alice", "-"],
             ["--since", "--follow", "--json", "--help"]),
            ([t, "price", "set", ""], ["sim"]),
            ([t, "price", "set", "sim", "re"], ["reasoning", "request"]),
            ([t, "price", "reset", "sim", "a"], ["all"]),
            ([t, "export", "--format", ""], ["csv", "jsonl"]),
            ([t, "key", "create", "alice", "--per", "=", "m"], ["month"]),
            ([t, "key", "create", "alice", "--label", ""], []),
            ([t, "tokens", "etc/VERS"], ["etc/VERSION"]),
            ([t, "tokens", "etc/VERSION", "etc/VERS"], ["etc/VERSION"]),
            ([t, "backup", "docs/m"], ["docs/man"]),
            ([t, "nothing", ""], []),
            ([t, "-"], ["-s", "--json", "-V", "--version", "-h", "--help"]),
        ]
        self.assertEqual(self.bash([c for c, _ in cases]), [want for _, want in cases])

    @unittest.skipUnless(shutil.which("zsh"), "zsh is not here")
    def test_zsh(self):
        """A shell on a terminal of its own, whose matches are written down."""
        out = os.path.join(self.t.folder, "zsh.out")
        setup = os.path.join(self.t.folder, "zsh.setup")
        with open(setup, "w") as f:
            f.write(f"""PS1=; unsetopt zle_bracketed_paste 2>/dev/null
fpath=({ROOT}/etc/completions $fpath); autoload -U compinit; compinit -u -D
compadd () {{
    if [[ ${{@[1,(i)(-|--)]}} != *-(O|A|D)\\ * ]]; then
        local -a hits
        builtin compadd -A hits "$@"
        (( $#hits )) && print -rl -- $hits >>{out}
    fi
    builtin compadd "$@"
}}
bindkey '^I' complete-word; bindkey '^U' kill-whole-line
# When it is ready for a line: what comes before would be the terminal's, not the editor's.
zle-line-init () {{ print -r -- --- >>{out} }}; zle -N zle-line-init
""")
        env = {k: v for k, v in self.env.items() if k != "TOLLD_SOCKET"}
        pid, tty = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            os.execvpe("zsh", ["zsh", "-f", "-i"], dict(env, TERM="dumb"))
        self.addCleanup(os.waitpid, pid, 0)
        self.addCleanup(os.close, tty)
        self.addCleanup(os.kill, pid, signal.SIGKILL)
        os.set_blocking(tty, False)

        def done(n):
            with contextlib.suppress(BlockingIOError):
                os.read(tty, 65536)  # or it would stop when its terminal is full
            with contextlib.suppress(FileNotFoundError), open(out) as f:
                return f.read().count("---\n") >= n

        os.write(tty, f". {setup}\n".encode())
        wait_for(lambda: done(1), 60, "zsh to be ready")
        cases = [("tollctl acc", {"account"}), ("tollctl account cr", {"create"}),
                 (f"tollctl -s {self.t.socket} account show b", {"bob"}),
                 ("tollctl export --form", {"--format"}),
                 ("tollctl export --format c", {"csv"}),
                 ("tollctl price set sim cac", {"cached", "cache_write"}),
                 ("tollctl -s /nowhere account show b", set()),
                 ("tollctl help jou", {"journal"}),
                 ("tollctl journal --acc", {"--account"})]
        for n, (line, _) in enumerate(cases):
            os.write(tty, f"{line}\t\x15\n".encode())
            wait_for(lambda n=n: done(n + 2), 60, line)
        with open(out) as f:
            got = [{w.rstrip("=") for w in part.split()} for part in f.read().split("---\n")[1:-1]]
        self.assertEqual(got, [want for _, want in cases])


if __name__ == "__main__":
    unittest.main()
