"""Start a program as a service manager does that passes sockets (sd_listen_fds(3)).

    launch.py [--pid N] FD,FD,... NAMES COMMAND...

The descriptors go to 3 and up; $LISTEN_PID is what COMMAND will have, or N.
"""
import fcntl
import os
import sys

args = sys.argv[1:]
pid = os.getpid()
if args[0] == "--pid":
    pid, args = int(args[1]), args[2:]
wanted = [int(n) for n in args[0].split(",") if n]
# Out of the way first: one of them may stand where another has to go.
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in wanted]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
    os.close(fd)
os.closerange(3 + len(high), 100)
os.environ.update(LISTEN_PID=str(pid), LISTEN_FDS=os.environ.get("FDS", str(len(high))),
                  LISTEN_FDNAMES=args[1])
os.execvp(args[2], args[2:])
