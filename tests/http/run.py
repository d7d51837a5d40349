#!/usr/bin/env python3
"""HTTP front, from outside.

Goal:   daemon/conn.c and its neighbours keep every promise to a client, well-behaved or not, and
        never cost more memory than they may.
Method: raw sockets against tests/http/echo.c; the corpus also against Node's parser: what
        llhttp refuses must be refused here.  Waits are for conditions, with a bound.

    run.py [--echo PATH] [unittest arguments]        (default PATH: $BUILD/http/echo)
"""
import os
import resource
import sys
import unittest

if __name__ == "__main__":
    echo = os.path.join(os.environ.get("BUILD", "build"), "http", "echo")
    if len(sys.argv) > 2 and sys.argv[1] == "--echo":
        echo = sys.argv[2]
        del sys.argv[1:3]
    if not os.access(echo, os.X_OK):
        sys.exit(echo + ": not there; build it first")
    os.environ["ECHO"] = os.path.abspath(echo)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    sys.dont_write_bytecode = True
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    from test_bounds import *  # noqa: F401, F403
    from test_corpus import *  # noqa: F401, F403
    from test_reading import *  # noqa: F401, F403
    from test_replies import *  # noqa: F401, F403

    unittest.main(verbosity=1)
