"""Run as a script: become another program that ends when the process that started it ends.

``python _launch.py PARENT_PID USER PROGRAM ARGS...``. It replaces itself, so the process id stays.
USER is empty or the name of a user to become, which only root can. A ``preexec_fn`` would do the
same, but forks a process that has threads of gRPC.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, user, program, *args = sys.argv[1:]
    if user:
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        os.environ["HOME"] = "/"
    # Last: the kernel forgets it when a process changes its user.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            sys.exit(1)  # it ended before we asked to be told
    os.execv(program, [program, *args])


main()
