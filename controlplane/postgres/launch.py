"""Turn this process into another program, under a uid that PostgreSQL accepts, which ends when its parent does.

    python -I -S launch.py WAY UID GID PARENT_PID FOLDER PROGRAM [ARGUMENT …]

A process of its own and not a `preexec_fn`: between fork and exec of a process with threads no Python code is safe.
Imports the standard library alone and nothing of this package, so it costs about 15 ms.

WAY is `same` (keep the uid), `user` (root becomes UID:GID) or `namespace` (a user namespace in which our own uid is
called UID: files keep their owner, yet getuid() is not 0 and has a passwd entry, all that PostgreSQL asks for).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1


def main(way: str, uid: int, gid: int, parent: int, folder: str, command: list[str]) -> None:
    """Change uid, enter the folder, arrange to die with the parent, and become the command."""
    if way == "user":
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    elif way == "namespace":
        enter_namespace(uid, gid)
    # Only now is it known whether the new uid may search the folder.
    os.chdir(folder)
    if sys.platform == "linux":
        # After the uid change, which clears it. SIGINT is PostgreSQL's fast shutdown: sessions end, nothing is lost.
        call("prctl", PR_SET_PDEATHSIG, int(signal.SIGINT))
    if os.getppid() != parent:  # it died before prctl, so no signal would ever come
        sys.exit("the parent is gone")
    os.execv(command[0], command)  # noqa: S606


def enter_namespace(uid: int, gid: int) -> None:
    """Enter a new user namespace in which our uid and gid are called `uid` and `gid`."""
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    call("unshare", CLONE_NEWUSER)
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1")
    Path("/proc/self/setgroups").write_text("deny")  # without it the kernel refuses the group map
    Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1")


def call(function: str, *arguments: int) -> None:
    """Call a function of the C library that answers 0, or raise OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{function}: {os.strerror(error)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], sys.argv[6:])
    except OSError as refused:
        sys.exit(f"cannot run as {sys.argv[1]} {sys.argv[2]}: {refused}")
