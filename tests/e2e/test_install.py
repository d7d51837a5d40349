"""Goal:   `make install` puts everything in place, and what it put there works from there.
Method: into a folder, under another prefix; the units' paths, the pages, a start by its own tables,
        and a second install that leaves the configuration alone.
"""
import os
import shutil
import subprocess
import tempfile
import unittest

from tolld import BUILD, ROOT, SLOW, Tolld, wait_for

PREFIX = "/opt/toll"


class Install(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="tolld-install-")
        self.addCleanup(shutil.rmtree, self.root, True)

    def install(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        p = subprocess.run(["make", "-s", f"BUILD={BUILD}", f"DESTDIR={self.root}",
                            f"PREFIX={PREFIX}", "-o", "all", "install"], cwd=ROOT, env=env,
                           capture_output=True, text=True, timeout=120 * SLOW)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)

    def read(self, name):
        with open(self.root + name) as f:
            return f.read()

    def test_it(self):
        self.install()
        share = PREFIX + "/share/"
        for name in ("tolld/tokenizers/o200k_base.tok", "tolld/grafana/tolld.json",
                     "tolld/prometheus/tolld.rules.yml", "man/man1/tollctl.1",
                     "man/man5/tolld.conf.5", "man/man7/tolld-admin.7", "man/man8/tolld.8",
                     "bash-completion/completions/tollctl", "zsh/site-functions/_tollctl",
                     "doc/tolld/operations.md", "doc/tolld/openapi.yaml",
                     "doc/tolld/examples/nginx/tolld.conf"):
            self.assertTrue(os.path.getsize(self.root + share + name), name)
        service = self.read(PREFIX + "/lib/systemd/system/tolld.service")
        self.assertIn(f"ExecStart={PREFIX}/sbin/tolld -c /etc/tolld/tolld.conf\n", service)
        self.assertNotIn(" /usr/sbin", service)
        self.assertIn("ListenStream=", self.read(PREFIX + "/lib/systemd/system/tolld.socket"))
        self.assertIn("u toll ", self.read(PREFIX + "/lib/sysusers.d/tolld.conf"))

        conf = self.root + "/etc/tolld/tolld.conf"
        self.assertEqual(os.stat(conf).st_mode & 0o777, 0o640)
        with open(conf, "a") as f:
            f.write("# mine\n")
        self.install()
        self.assertIn("# mine", self.read("/etc/tolld/tolld.conf"))

        tolld, tollctl = self.root + PREFIX + "/sbin/tolld", self.root + PREFIX + "/bin/tollctl"
        subprocess.run([tolld, "-t", "-c", conf], check=True, stdout=subprocess.DEVNULL)
        t = Tolld(sim=False)
        self.addCleanup(t.close)
        with open(t.log_file, "w") as log:
            t.process = subprocess.Popen([tolld, "-c", t.config_file], stdout=log, stderr=log)
        wait_for(t.ready, 20, "the daemon to be ready")
        subprocess.run([tollctl, "-s", t.socket, "ping"], check=True, stdout=subprocess.DEVNULL)
        self.assertNotIn("tokenizer", t.log())  # they were found beside it
        self.assertEqual(t.stop(), 0)


if __name__ == "__main__":
    unittest.main()
