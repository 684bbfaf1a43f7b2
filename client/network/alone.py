"""The worker needs no network: it talks to the daemon by pipes and files. Where the machine lets it, it has none."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def leave_network(*, as_user: bool) -> bool:
    """Move this process into a network of its own, which leads nowhere; return whether the machine let it.

    Linux alone has such. A container, or a unit with ``RestrictNamespaces=yes``, forbids it. To be called while the
    process has a single thread, and before it asks to die with another: that wish is lost here.

    Parameters
    ----------
    as_user : also by a user namespace, which any user may make. Drivers of a GPU that start a program of root's cannot
        do so in one.
    """
    if sys.platform != "linux":
        return False
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    if not as_user or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    own = Path("/proc/self")
    with suppress(OSError):  # without names files are this user's all the same
        (own / "setgroups").write_text("deny")
        (own / "uid_map").write_text(f"{user} {user} 1")
        (own / "gid_map").write_text(f"{group} {group} 1")
    return True
