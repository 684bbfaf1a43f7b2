"""A process that left the network reaches nobody, and writes its files as before."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import encodings.idna, os, socket, sys  # all that it needs later, of a Python that only root may read
from pathlib import Path
from client.network.alone import leave_network
if len(sys.argv) > 3:
    os.setgroups([]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[3]))
before = os.getuid()
left = leave_network(as_user=sys.argv[2] != "root-alone")
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2).close()
    reached = True
except OSError:
    reached = False
print(left, reached, os.getuid() == before)
"""


@pytest.mark.parametrize("user", ["", "65534"])
@pytest.mark.parametrize("how", ["any", "root-alone"])
def test_it_reaches_nobody_where_it_left(user, how):
    if user and os.geteuid() != 0:
        pytest.skip("another user's part needs root to play it")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        words = [str(listening.getsockname()[1]), how, *([user] if user else [])]
        root = str(Path(__file__).parents[3])
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True, cwd=root
        )
    left, reached, same = done.stdout.split()
    assert reached == ("False" if left == "True" else "True")
    assert same == "True"
    if how == "root-alone" and (user or os.geteuid() != 0):
        assert left == "False"
