"""Files that last: whatever step a crash comes at, a reader finds the old content or the new, whole."""

import ast
import os
import signal
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import pytest

from ecgshared.service import files

OLD, NEW = b"old content\n", b"new content, and longer than the old one\n" * 1000
STEPS = ("open", "write", "fsync", "rename", "link", "ftruncate", "fchmod", "unlink")


class Crash(BaseException):
    """What no handler takes for an error of the disk."""


def dying_at(monkeypatch, step, die):
    """Let the call number ``step`` that changes the disk do nothing but ``die``; return the calls seen."""
    seen = []

    def counted(name, real):
        def call(*arguments, **options):
            seen.append(name)
            if len(seen) == step:
                if name == "write":
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                die()
            return real(*arguments, **options)

        return call

    for name in STEPS:
        monkeypatch.setattr(files.os, name, counted(name, getattr(os, name)))
    return seen


def crash():
    raise Crash


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def killed(monkeypatch, step, act):
    """Run ``act`` in a process that is killed at a step; return whether it was."""
    child = os.fork()
    if child == 0:
        try:
            dying_at(monkeypatch, step, kill)
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def raised(step, act):
    with pytest.MonkeyPatch.context() as patched:
        dying_at(patched, step, crash)
        try:
            act()
        except Crash:
            return True
    return False


WRITERS = {
    "whole": (files.write_atomically, OLD, NEW),
    "once": (files.write_once, None, NEW),
    "line": (lambda path, new: files.append_line(path, new.decode().strip()), OLD, OLD + b"a line" * 999 + b"\n"),
}


@pytest.mark.parametrize("way", ["an error", "a kill"])
@pytest.mark.parametrize("name", list(WRITERS))
def test_a_crash_at_any_step_leaves_the_old_content_or_the_new(tmp_path, monkeypatch, name, way):
    write, old, after = WRITERS[name]
    new = after[len(OLD) :] if name == "line" else after
    path, contents = tmp_path / "kept", []
    for step in count(1):
        if old is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(old)

        def act():
            write(path, new)

        crashed = raised(step, act) if way == "an error" else killed(monkeypatch, step, act)
        if not crashed:
            break
        content = path.read_bytes() if path.exists() else None
        contents.append(content)
        if name == "line" and way == "a kill" and content not in (old, after):
            # Nobody can take back what a killed process wrote of a line; the next one starts anew.
            files.append_line(path, "next")
            assert path.read_bytes().endswith(b"\nnext\n")
        else:
            assert content in (old, after)
            if way == "an error":
                assert [p.name for p in tmp_path.iterdir()] in ([], ["kept"])
        assert len(list(tmp_path.iterdir())) <= 2  # never a draft more for every crash
    assert path.read_bytes() == after
    assert step > 3  # that many steps were tried
    assert old in contents  # before the new content counts
    if way == "a kill" or name != "line":
        assert after in contents  # and after it: the folder was still to be synced


def test_file_then_name_then_folder(tmp_path, monkeypatch):
    seen = dying_at(monkeypatch, 0, crash)
    files.write_atomically(tmp_path / "kept", NEW)
    assert seen == ["open", "ftruncate", "write", "fsync", "rename", "open", "fsync"]
    seen.clear()
    files.write_atomically(tmp_path / "kept", NEW, sync=False)
    assert "fsync" not in seen
    assert "rename" in seen


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "kept"
    path.write_bytes(OLD)

    def full(handle, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "write", full)
    for write in (files.write_atomically, files.write_once):
        with pytest.raises(OSError, match="No space"):
            write(path, NEW)
    with pytest.raises(OSError, match="No space"):
        files.append_line(path, "more")
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_who_may_read(tmp_path):
    mask = os.umask(0o022)
    try:
        public, private, again = tmp_path / "public", tmp_path / "private", tmp_path / "again"
        files.write_atomically(public, NEW)
        files.write_atomically(private, NEW, private=True)
        again.write_bytes(OLD)
        again.chmod(0o640)
        files.write_atomically(again, NEW)
        files.append_line(tmp_path / "folder" / "lines", "one")
        files.write_once(tmp_path / "once", NEW)
    finally:
        os.umask(mask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"public": 0o644, "private": 0o600, "again": 0o640, "folder": 0o700, "once": 0o600}
    assert (tmp_path / "folder" / "lines").stat().st_mode & 0o777 == 0o600


def test_what_is_written_once_is_never_replaced(tmp_path):
    made = [files.write_once(tmp_path / "key", content) for content in (OLD, NEW)]
    assert made == [True, False]
    assert (tmp_path / "key").read_bytes() == OLD


def test_writers_of_one_file_wait_for_each_other(tmp_path):
    path = tmp_path / "kept"
    contents = [bytes([65 + i]) * 200_000 for i in range(4)]
    start = threading.Barrier(4)

    def write(content):
        start.wait()
        for _ in range(10):
            files.write_atomically(path, content, sync=False)
            assert path.read_bytes() in contents

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_lines_of_several_processes_are_all_there(tmp_path):
    path = tmp_path / "lines"
    code = "import sys; from ecgshared.service.files import append_line; from pathlib import Path\n"
    code += "for i in range(50): append_line(Path(sys.argv[1]), f'{sys.argv[2]} {i} ' + 'x' * 500)"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path), str(n)]) for n in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    lines = path.read_text().splitlines()
    assert sorted(line.rsplit(" ", 1)[0] for line in lines) == sorted(f"{n} {i}" for n in range(3) for i in range(50))


def test_a_new_line_does_not_hang_on_half_an_old_one(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b'{"whole": 1}\n{"ha')
    files.append_lines(path, ["one", "two"], private=False)
    assert path.read_bytes() == b'{"whole": 1}\n{"ha\none\ntwo\n'


IN_PLACE = {f"client/cache/{name}.py": {"fsync"} for name in ("beats", "signals", "slots")}
"""Files of slots, each with its own checksum, written where they are."""
IN_PLACE["client/network/alone.py"] = {"write_text"}
"""Of the kernel's, in /proc."""


def test_nobody_else_writes_a_file_that_lasts():
    root = Path(files.__file__).parents[2]
    found = {}
    for package in ("client", "server", "ecgshared"):
        for path in (root / package).rglob("*.py"):
            name = path.relative_to(root).as_posix()
            used = {call.func.attr for call in ast.walk(ast.parse(path.read_text())) if _writes(call)}
            if used - IN_PLACE.get(name, set()):
                found[name] = used
    assert set(found) == {"ecgshared/service/files.py"}


def _writes(call):
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    of = call.func.value.id if isinstance(call.func.value, ast.Name) else ""
    appends = call.func.attr == "open" and any(isinstance(a, ast.Constant) and a.value == "a" for a in call.args)
    return (
        (call.func.attr == "rename" and of != "files")
        or call.func.attr in ("fsync", "write_text", "write_bytes")
        or (call.func.attr == "replace" and len(call.args) == 1 and not call.keywords)
        or (appends and ".supervisor.lock" not in ast.unparse(call))
    )
