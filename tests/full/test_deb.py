"""Goal:   the Debian package is whole, reproducible, and behaves over its life.
Method: built twice, the second time by somebody else elsewhere, and compared; lintian; contents,
        owners and modes; the unpacked daemon is started; a small Debian where it is installed,
        upgraded with a changed configuration, removed and purged.

Needs what `etc/install-deps.sh deb-check` installs.  The second user, and the system within, need
root.
"""
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from tolld import BUILD, ROOT, Tolld, wait_for  # noqa: E402

OUT = os.path.join(BUILD, "deb")
NOBODY = 65534
CONF = "/etc/tolld/tolld.conf"


def run(*args, check=True, **kw):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    if check and p.returncode != 0:
        raise AssertionError(f"{args}: exit {p.returncode}\n{p.stdout[-6000:]}")
    return p.stdout if check else p


def build(tree, out, **kw):
    run("etc/debian/build", out, cwd=tree, **kw)
    deb, = [d for d in glob.glob(out + "/tolld_*.deb")]
    return deb


def setUpModule():
    """Both builds are of one copy: the sources may be edited meanwhile."""
    global DEB, SOURCES, EPOCH
    SOURCES = tempfile.mkdtemp(prefix="tolld-deb-")
    unittest.addModuleCleanup(shutil.rmtree, SOURCES, True)
    run("sh", "-c", f"git ls-files -z | tar -c --null -T - | tar -x -C {SOURCES}", cwd=ROOT)
    EPOCH = run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    DEB = build(SOURCES, OUT, env=dict(os.environ, SOURCE_DATE_EPOCH=EPOCH))


class Package(unittest.TestCase):
    def test_contents(self):
        have = {}
        for line in run("dpkg-deb", "-c", DEB).splitlines():
            mode, owner, _, _, _, name = line.split(None, 5)
            have[name[1:]] = (mode, owner)
        self.assertEqual({o for _, o in have.values()}, {"root/root"})
        self.assertEqual(have.pop(CONF)[0], "-rw-r-----")
        for name, (mode, _) in have.items():
            want = "drwxr-xr-x" if name.endswith("/") else "-rw-r--r--"
            if name in ("/usr/sbin/tolld", "/usr/bin/tollctl", "/usr/bin/tolld-trace"):
                want = "-rwxr-xr-x"
            self.assertEqual(mode, want, name)
        doc, man = "/usr/share/doc/tolld/", "/usr/share/man/"
        for name in ("/usr/lib/sysusers.d/tolld.conf",
                     "/usr/share/tolld/tokenizers/o200k_base.tok",
                     "/usr/share/tolld/tokenizers/cl100k_base.tok",
                     "/usr/share/tolld/prometheus/tolld.rules.yml",
                     "/usr/share/tolld/grafana/tolld.json",
                     "/usr/share/bash-completion/completions/tollctl",
                     "/usr/share/zsh/vendor-completions/_tollctl",
                     man + "man1/tollctl.1.gz", man + "man5/tolld.conf.5.gz",
                     man + "man7/tolld-admin.7.gz", man + "man8/tolld.8.gz",
                     doc + "copyright", doc + "changelog.gz", doc + "CHANGELOG.md",
                     doc + "openapi.yaml", doc + "examples/nginx/tolld.conf",
                     doc + "examples/caddy/Caddyfile", doc + "examples/Containerfile",
                     doc + "examples/sysctl.d/90-tolld.conf"):
            self.assertIn(name, have)
        for page in glob.glob(os.path.join(ROOT, "docs/*.md")):
            self.assertIn(doc + os.path.basename(page), have)
        units = [n for n in have if "/systemd/system/tolld." in n]
        self.assertEqual(sorted(n.rsplit(".", 1)[1] for n in units), ["service", "socket"])
        self.assertEqual(run("dpkg-deb", "-I", DEB, "conffiles"), CONF + "\n")
        self.assertEqual(run("dpkg-deb", "-f", DEB, "Version").strip(),
                         open(os.path.join(ROOT, "etc/VERSION")).read().strip())

    def test_the_container_has_its_libraries(self):
        with open(os.path.join(ROOT, "etc/Containerfile")) as f:
            words = f.read().split()
        for depends in run("dpkg-deb", "-f", DEB, "Depends").split(","):
            name = depends.split("|")[0].split()[0]
            if name.startswith("lib") and name != "libc6":
                self.assertIn(name, words)

    @unittest.skipUnless(shutil.which("lintian"), "lintian is not here")
    def test_lintian(self):
        root = ["--allow-root"] if os.geteuid() == 0 else []
        p = run("lintian", *root, "--fail-on", "error,warning", DEB, check=False)
        self.assertEqual((p.returncode, p.stdout), (0, ""))

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd is not here")
    def test_units(self):
        with tempfile.TemporaryDirectory() as d:
            run("dpkg-deb", "-x", DEB, d)
            units, = glob.glob(d + "/*/systemd/system") + glob.glob(d + "/usr/*/systemd/system")
            for name in ("tolld.service", "tolld.socket"):
                with open(f"{units}/{name}") as f:
                    text = f.read()
                with open(f"{units}/{name}", "w") as f:  # verify looks for the program
                    f.write(text.replace("/usr/sbin/", d + "/usr/sbin/")
                            .replace("/usr/bin/", d + "/usr/bin/"))
            run("systemd-analyze", "verify", "--man=no", f"{units}/tolld.service",
                f"{units}/tolld.socket")
            p = run("systemd-analyze", "security", "--offline=true", "--threshold=30",
                    f"{units}/tolld.service", check=False)
            self.assertEqual(p.returncode, 0, p.stdout)

    def test_the_unpacked_daemon(self):
        with tempfile.TemporaryDirectory() as d:
            run("dpkg-deb", "-x", DEB, d)
            run(d + "/usr/sbin/tolld", "-t", "-c", d + CONF)
            t = Tolld(workers=2)
            self.addCleanup(t.close)
            with open(t.log_file, "w") as log:
                t.process = subprocess.Popen([d + "/usr/sbin/tolld", "-c", t.config_file],
                                             stdout=log, stderr=log)
            wait_for(t.ready, 20, "the daemon to be ready")
            out = run(d + "/usr/bin/tollctl", "-s", t.socket, "ping")
            self.assertIn(run("dpkg-deb", "-f", DEB, "Version").strip(), out)
            self.assertNotIn("estimate", t.log())  # its tables were found beside it
            self.assertEqual(t.stop(), 0)

    @unittest.skipUnless(os.geteuid() == 0, "becoming somebody else needs root")
    def test_somebody_else_makes_the_same(self):
        d = tempfile.mkdtemp(prefix="tolld-deb-")
        self.addCleanup(shutil.rmtree, d, True)
        shutil.copytree(SOURCES, d, dirs_exist_ok=True)
        run("chown", "-R", f"{NOBODY}:{NOBODY}", d)
        env = dict(PATH=os.environ["PATH"], HOME=d, SOURCE_DATE_EPOCH=EPOCH, TZ="Asia/Tokyo",
                   LC_ALL="C.UTF-8")
        def drop():
            os.umask(0o077)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        second = build(d, d + "/elsewhere", env=env, preexec_fn=drop)
        a, b = (open(x, "rb").read() for x in (DEB, second))
        self.assertTrue(a == b, "the packages differ")


@unittest.skipUnless(os.geteuid() == 0 and shutil.which("debootstrap"),
                     "a system within needs root and debootstrap")
class Life(unittest.TestCase):
    """In a system of its own: systemd is installed there, but does not run."""

    @classmethod
    def setUpClass(cls):
        cls.root = os.environ.get("DEB_ROOT") or os.path.join(BUILD, "deb-root")
        if not os.path.exists(cls.root + "/usr/bin/dpkg"):
            shutil.rmtree(cls.root, ignore_errors=True)
            code = run("sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME").strip()
            run("debootstrap", "--variant=minbase", "--include=systemd", code, cls.root)
        depends = run("dpkg-deb", "-f", DEB, "Depends").strip()
        names = ["curl", "dbus", "procps"]
        names += [d.split("|")[0].split()[0] for d in depends.split(",")]
        cls.sh("DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "
               + " ".join(names))

    @classmethod
    def sh(cls, script, check=True):
        return run("chroot", cls.root, "/bin/sh", "-c", script, check=check,
                   env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"})

    def stat(self, path):
        return self.sh(f"stat -c '%U:%G %a' {path}").strip()

    def newer(self):
        """The same package as a later version, with another example."""
        d = tempfile.mkdtemp(prefix="tolld-deb-")
        self.addCleanup(shutil.rmtree, d, True)
        run("dpkg-deb", "-R", DEB, d + "/p")
        run("sed", "-i", "s/^Version: .*/&+1/", d + "/p/DEBIAN/control")
        with open(d + "/p" + CONF, "a") as f:
            f.write("# of the new version\n")
        run("dpkg-deb", "--root-owner-group", "-b", d + "/p", self.root + "/tmp/newer.deb")

    def start(self):
        """Start what was installed as the unit does, ask it, and end it."""
        p = subprocess.Popen(
            # It looks for its tables beside its program, by /proc/self/exe.
            ["unshare", "-m", "/bin/sh", "-c", 'mount -t proc proc "$1/proc" && exec chroot "$@"',
             "sh", self.root, "/bin/sh", "-c",
             "install -d -o toll -g toll /run/tolld && exec setpriv --reuid=toll --regid=toll "
             "--clear-groups /usr/sbin/tolld"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, text=True)
        try:
            lines = []
            for line in p.stdout:
                lines.append(line)
                if "msg=ready" in line:
                    break
            self.assertIn("msg=ready", "".join(lines[-1:]), "".join(lines))
            self.sh("tollctl ping")
            return self.sh("tollctl account show alice || tollctl account create alice --balance 7")
        finally:
            p.terminate()
            p.communicate(timeout=30)
            self.assertEqual(p.returncode, 0)

    def test_a_life(self):
        self.sh("dpkg --purge tolld 2>/dev/null; rm -rf /var/lib/tolld")
        shutil.copy(DEB, self.root + "/tmp/tolld.deb")
        self.newer()
        self.sh("dpkg -i /tmp/tolld.deb")
        self.assertEqual(self.stat(CONF), "root:toll 640")
        self.assertEqual(self.stat("/var/lib/tolld"), "toll:toll 750")
        self.assertIn("/usr/sbin/nologin", self.sh("getent passwd toll"))
        self.assertTrue(os.path.lexists(
            self.root + "/etc/systemd/system/multi-user.target.wants/tolld.service"))
        self.assertFalse(glob.glob(self.root + "/etc/systemd/system/sockets.target.wants/tolld*"))
        self.assertRegex(self.start(), r"balance +7\n")

        # An upgrade leaves what the administrator changed, and whose it is.
        self.sh(f"echo '# mine' >>{CONF}; chmod 0600 {CONF}; chown toll:toll {CONF}")
        self.sh("dpkg -i --force-confdef --force-confold /tmp/newer.deb")
        self.assertIn("# mine", self.sh(f"cat {CONF}"))
        self.assertEqual(self.stat(CONF), "toll:toll 600")
        self.assertIn("# of the new version", self.sh(f"cat {CONF}.dpkg-dist"))
        self.assertRegex(self.start(), r"balance +7\n")

        self.sh("dpkg -r tolld")
        self.assertIn("journal.mdb", self.sh("ls /var/lib/tolld"))
        self.assertIn("# mine", self.sh(f"cat {CONF}"))
        self.assertFalse(os.path.exists(self.root + "/usr/sbin/tolld"))
        self.sh("dpkg -i --force-confold /tmp/newer.deb")  # and it goes on
        self.assertRegex(self.start(), r"balance +7\n")

        self.sh("touch /etc/tolld/environment")
        self.sh("dpkg --purge tolld")
        for gone in ("/var/lib/tolld", "/etc/tolld", "/run/tolld"):
            self.assertFalse(os.path.exists(self.root + gone), gone)
        self.assertFalse(glob.glob(self.root + "/etc/systemd/system/*/tolld*"))


    @unittest.skipUnless(shutil.which("systemd-nspawn"), "systemd-nspawn is not here")
    def test_a_life_under_systemd(self):
        """The system is booted, and runs life.sh as its last service."""
        self.sh("dpkg --purge tolld 2>/dev/null; rm -rf /var/lib/tolld")
        shutil.copy(DEB, self.root + "/root/tolld.deb")
        self.newer()
        shutil.move(self.root + "/tmp/newer.deb", self.root + "/root/newer.deb")
        self.sh("dpkg -i /root/tolld.deb")
        shutil.copy(os.path.join(ROOT, "tests/full/life.sh"), self.root + "/root/life.sh")
        with open(self.root + "/etc/systemd/system/life.service", "w") as f:
            f.write("[Unit]\nAfter=tolld.service\n[Service]\nType=oneshot\n"
                    "ExecStart=/bin/sh /root/life.sh\nTimeoutStartSec=280\n"
                    "ExecStopPost=/bin/systemctl poweroff --no-block\n")
        wants = self.root + "/etc/systemd/system/multi-user.target.wants"
        os.makedirs(wants, exist_ok=True)
        link = wants + "/life.service"
        if not os.path.lexists(link):
            os.symlink("../life.service", link)
        self.addCleanup(os.unlink, link)
        result = self.root + "/root/result"
        if os.path.exists(result):
            os.unlink(result)
        run("timeout", "300", "systemd-nspawn", "-D", self.root, "--register=no", "--keep-unit",
            "--private-network", "-b", stdin=subprocess.DEVNULL)
        with open(result) as f:
            got = dict(line.rstrip("\n").split("=", 1) for line in f)
        with open(self.root + "/root/result.errors", errors="replace") as f:
            errors = f.read()
        self.assertEqual(got, {
            "active": "active", "user": "toll", "workers": str(2 + os.cpu_count()),
            "asked": "200", "with_socket": "200", "after_crash": "200", "restarted": "1",
            "recovered": "1", "audit": "ok", "upgraded": "active,active", "replaced": "yes",
            "asked_then": "200", "removed": "inactive,inactive", "kept": "yes"}, errors[-6000:])


if __name__ == "__main__":
    unittest.main()
