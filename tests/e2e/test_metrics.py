#!/usr/bin/env python3
"""What Prometheus and Grafana are given: names that exist, and with promtool rules that work."""
import json
import os
import re
import shutil
import subprocess
import unittest

import tolld

RULES = os.path.join(tolld.ROOT, "etc", "prometheus")
DASHBOARD = os.path.join(tolld.ROOT, "etc", "grafana", "tolld.json")
PROMTOOL = shutil.which("promtool")


class Metrics(tolld.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        key = cls.t.account("a", 10)
        cls.t.run(key)
        tolld.wait_for(lambda: cls.t.metric("tolld_streams_total") == 1, 10, "the stream's end")
        cls.text = cls.t.get_admin("/metrics")[1]
        # Some series begin with the first event that they count: their names are said before.
        cls.names = set(re.findall(r"^(?:# TYPE )?(tolld_\w+)[ {]", cls.text, re.M))

    def known(self, where, expressions):
        for e in expressions:
            for name in re.findall(r"\btolld_\w+", e):
                self.assertTrue(name in self.names, f"{where}: {name}")

    def test_every_metric_says_what_it_is(self):
        for name in self.names:
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            self.assertTrue(any(f"# TYPE {x} " in self.text and f"# HELP {x} " in self.text
                                for x in (name, base)), name)

    def test_rules_use_what_there_is(self):
        with open(os.path.join(RULES, "tolld.rules.yml")) as f:
            text = f.read()
        self.assertGreater(text.count("- alert:"), 10)
        self.known("rules", re.findall(r"expr: (.*?)\n +(?:for|labels):", text, re.S))

    def test_every_alert_is_in_the_manual(self):
        with open(os.path.join(RULES, "tolld.rules.yml")) as f:
            alerts = re.findall(r"- alert: (\w+)", f.read())
        with open(os.path.join(tolld.ROOT, "docs", "operations.md")) as f:
            manual = f.read()
        for a in alerts:
            self.assertIn(f"| `{a}` |", manual)

    def test_dashboard_uses_what_there_is(self):
        with open(DASHBOARD) as f:
            panels = json.load(f)["panels"]
        expressions = [t["expr"] for p in panels for t in p.get("targets", [])]
        self.assertGreater(len(expressions), 25)
        self.known("dashboard", expressions)

    @unittest.skipUnless(PROMTOOL, "promtool is not installed: `make check-full` brings it")
    def test_promtool(self):
        def promtool(*args, **more):
            p = subprocess.run([PROMTOOL, *args], capture_output=True, text=True, timeout=120,
                               cwd=RULES, **more)
            self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
        promtool("check", "metrics", input=self.text)
        promtool("check", "rules", "tolld.rules.yml")
        promtool("test", "rules", "tests.yml")


if __name__ == "__main__":
    unittest.main(verbosity=2)
