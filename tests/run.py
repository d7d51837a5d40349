#!/usr/bin/env python3
"""Run the tests and say what passed: unit tests, then the ones against real servers.

    tests/run.py [--jobs N] [--only WORD] NAME...

A NAME is a unit test's program, or a Python file with unittest cases.  Output of what passes is
kept back; what fails is shown whole.  The last line counts.
"""
import argparse
import concurrent.futures
import os
import subprocess
import sys
import time

parser = argparse.ArgumentParser()
# Most of a test's time is spent waiting, for a time-out or a disk.
parser.add_argument("--jobs", type=int, default=3 * len(os.sched_getaffinity(0)))
parser.add_argument("--timeout", type=int, default=int(os.environ.get("TEST_TIMEOUT", "600")))
parser.add_argument("--only", default="")
parser.add_argument("names", nargs="+")
args = parser.parse_args()


def run(name):
    start = time.monotonic()
    command = [sys.executable, "-B", "-W", "ignore::ResourceWarning", name] if name.endswith(".py") else [name]
    env = dict(os.environ)
    env["PYTHONPATH"] = os.path.dirname(os.path.abspath(name))
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env,
                         start_new_session=True)
    try:
        out, _ = p.communicate(timeout=args.timeout)
        code = p.returncode
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, 9)
        out, _ = p.communicate()
        out += f"\nkilled after {args.timeout} s\n".encode()
        code = 124
    return name, code, out.decode(errors="replace"), time.monotonic() - start


passed = failed = 0
names = [n for n in args.names if args.only in n]
# The long ones first, so that none of them ends alone; then what waits, then what computes.
LONG = ("unit/test_step", "e2e/test_upgrade_load.py", "e2e/test_melee.py", "e2e/test_operator.py",
        "e2e/test_upgrade.py", "e2e/test_ws.py", "e2e/test_reload.py", "page/unit_tolld.mjs",
        "e2e/test_bad_worker.py", "e2e/test_history.py", "e2e/test_tokens.py",
        "e2e/test_v1_hostile.py", "e2e/test_disk.py",
        "e2e/test_upstream_retry.py", "e2e/test_upstream_timeout.py", "http/run.py",
        "e2e/test_budgets.py", "e2e/test_keys.py", "e2e/test_compact.py")
names.sort(key=lambda n: (next((i for i, x in enumerate(LONG) if n.endswith(x)), len(LONG)),
                          not n.endswith(".py")))
with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
    for future in concurrent.futures.as_completed([pool.submit(run, n) for n in names]):
        name, code, out, seconds = future.result()
        short = os.path.relpath(name)
        if code == 0:
            passed += 1
            print(f"ok   {short} ({seconds:.1f} s)", flush=True)
        else:
            failed += 1
            print(f"FAIL {short} ({seconds:.1f} s, exit {code})\n{out}", flush=True)
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed or not passed else 0)
