"""What the coordinator's commands do to a supervisor that runs elsewhere, by its files and signals alone."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ecgshared.errors import ConfigError, RunError
from ecgshared.study.study import load_study
from server.coordinator import trail
from server.coordinator.authority import days_left, read_certificate
from server.coordinator.home import HOME_VARIABLE, Home
from server.coordinator.sessions import Sessions
from server.coordinator.submission import GOING, RESUMED, reason_of
from server.rounds.run_folder import RunFolder, is_held

_UP_SECONDS, _DOWN_SECONDS = 60.0, 30.0
_SOON_DAYS = 30
_started: list[subprocess.Popen[bytes]] = []
"""Supervisors this process started: kept so that their end is noticed."""
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")


def is_up(home: Home) -> bool:
    """Whether a supervisor works on this home."""
    with (home.path / ".supervisor.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def start(home: Home) -> None:
    """Start a supervisor in the background and wait until all of its processes live."""
    if is_up(home):
        raise RunError("this coordinator is up already", where=home.path, remedy="ecgfed coordinator status")
    home.make_whole()
    output = home.path / "logs" / "up.log"
    with output.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ecgshared", "coordinator", "up", "--home", str(home.path)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={k: v for k, v in os.environ.items() if k != HOME_VARIABLE},
        )  # fmt: skip
    _started[:] = [*(earlier for earlier in _started if earlier.poll() is None), process]
    end = time.monotonic() + _UP_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            last = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
            raise RunError("the coordinator did not come up", where=output, value="\n".join(last))
        found = read_status(home)
        if found.get("pid") == process.pid and found.get("serving"):
            return
        time.sleep(0.1)
    raise RunError("the coordinator is not ready yet", where=output, remedy="see the log; ecgfed coordinator status")


def stop(home: Home) -> bool:
    """End the supervisor and wait for its end; False where none worked."""
    if not is_up(home):
        return False
    pid = _supervisor(home)
    if pid is None:
        raise RunError("the coordinator has written no status yet", where=home.path, remedy="try again in a second")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise RunError("the coordinator is another user's", value=pid, remedy="be the user who started it") from None
    except ProcessLookupError:
        pass  # it ended by itself meanwhile
    end = time.monotonic() + _DOWN_SECONDS
    while time.monotonic() < end:
        if not is_up(home):
            _reap(pid)
            return True
        time.sleep(0.1)
    raise RunError("the coordinator does not end", value=pid, remedy=f"kill -9 {pid}; the next `up` clears up")


def _reap(pid: int) -> None:
    for process in [p for p in _started if p.pid == pid]:
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
            _started.remove(process)


def read_status(home: Home) -> dict[str, Any]:
    """Return what the supervisor last wrote."""
    try:
        found = json.loads((home.path / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _supervisor(home: Home) -> int | None:
    """Return the process that works on this home; None where the status is still that of an earlier life."""
    pid = read_status(home).get("pid")
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return pid if isinstance(pid, int) and b"coordinator" in words and b"up" in words else None


def queue_run(home: Home, study_file: Path, name: str | None) -> str:
    """Make the folder of a new run, which a supervisor then submits; return its name.

    Raises
    ------
    ConfigError : the study names sites that are not admitted, or the name is taken.
    RunError : no supervisor is up.
    """
    study = load_study(study_file)
    strangers = sorted(set(study.sites.all) - {entry.site for entry in home.admitted})
    if strangers:
        raise ConfigError(
            "the study names sites that are not admitted",
            where=study_file,
            value=", ".join(strangers),
            allowed=", ".join(e.site for e in home.admitted) or "nobody is admitted",
            remedy="ecgfed coordinator invite SITE; then admit its request",
        )
    chosen = name or f"{study.name}-{time.strftime('%Y%m%dT%H%M%S')}"
    if not _RUN_NAME.fullmatch(chosen):
        raise ConfigError(
            "this cannot be a run's name", value=chosen, allowed="letters, digits, then also _ . -, at most 60"
        )
    if not is_up(home):
        raise RunError("the coordinator is not up", where=home.path, remedy="ecgfed coordinator up --detach")
    folder = home.path / "runs" / chosen
    if folder.exists():
        raise RunError(
            f"there is a run {chosen} already",
            where=folder,
            remedy=f"another --name, or: ecgfed coordinator resume {chosen}",
        )
    trail.note(home.path, "run", run=chosen, study=study.sha256)
    RunFolder.create(folder, study_file, backend="flower", status="queued").close()
    return chosen


def stop_run(home: Home, name: str) -> str:
    """Ask a run to end after its last checkpoint and wait for it; return what was done."""
    folder = home.run_folder(name)
    if _status(folder) not in GOING:
        return f"run {name} is {_status(folder)}: there is nothing to stop"
    trail.note_always(home.path, "stop", run=name)
    (folder / "stop").touch()
    end = time.monotonic() + _DOWN_SECONDS
    while _status(folder) in GOING and time.monotonic() < end:
        if not is_held(folder) and not is_up(home):
            run = RunFolder.reopen(folder)
            run.update(status="stopped", stopped_by="the coordinator stopped the run")
            run.close()
        time.sleep(0.1)
    if _status(folder) in GOING:
        raise RunError(f"run {name} does not end", remedy="ecgfed coordinator down; ecgfed coordinator up --detach")
    return f"run {name} is stopped; ecgfed coordinator resume {name} goes on from its last checkpoint"


def resume_run(home: Home, name: str) -> None:
    """Have a run that is not going on submitted again."""
    folder = home.run_folder(name)
    status = _status(folder)
    if status == "done" and not _left_out(folder):
        raise RunError(f"run {name} is done", remedy=f"ecgfed coordinator report {name}")
    if not is_up(home):
        raise RunError("the coordinator is not up", where=home.path, remedy="ecgfed coordinator up --detach")
    if status in GOING:
        return  # the supervisor sees to it
    trail.note(home.path, "resume", run=name)
    (folder / "stop").unlink(missing_ok=True)
    run = RunFolder.reopen(folder)
    try:
        # Last, so that what is submitted finds why. On a full disk neither is written, and the command says so.
        run.note(RESUMED, f"it was {status}: {run.info.get('stopped_by') or 'no reason was noted'}")
        run.update(status="queued", stopped_by=None)
    finally:
        run.close()


def describe(home: Home) -> tuple[dict[str, Any], list[str]]:
    """Return the coordinator's state, as JSON and as lines."""
    up, found = is_up(home), read_status(home)
    nodes = found.get("sites", {}) if up else {}
    sites = {
        e.site: {"status": e.status, "connection": nodes.get(e.site, "unknown"), "certificate_until": e.not_after}
        for e in home.sites.values()
    }
    certificates = {
        "authority": days_left(home.authority.certificate),
        "server": days_left(read_certificate(home.path / "tls" / "server.crt")),
        "loopback": days_left(read_certificate(home.path / "tls" / "loopback.crt")),
    }
    asking, forks = [path.stem for path in home.asking()], Sessions(home.path).forks()
    folders = [path.parent for path in sorted((home.path / "runs").glob("*/run.json"))]
    runs = {folder.name: _status(folder) for folder in folders}
    why = {folder.name: reason_of(folder).removeprefix(": ") for folder in folders}
    content = {
        "up": up, "address": home.config.address, "processes": found.get("processes", {}) if up else {},
        "sites": sites, "runs": runs, "why": why, "asking_for_certificates": asking, "copies_refused": forks,
        "certificate_days_left": {k: round(v, 1) for k, v in certificates.items()},
    }  # fmt: skip
    lines = [f"coordinator {home.config.name}, {home.config.address}: {'up' if up else 'DOWN'}"]
    for name, process in content["processes"].items():
        again = f", started again {process['restarts']} times" if process["restarts"] else ""
        lines.append(f"  {name:<10} {'pid ' + str(process['pid']) if process['pid'] else 'NOT RUNNING'}{again}")
    lines += [f"site {s:<12} {e['status']:<9} {e['connection']:<11} {e['certificate_until']}" for s, e in sites.items()]
    lines += [
        f"site {s} asks for its next certificate: ecgfed coordinator admit {home.path}/renewals/{s}.csr" for s in asking
    ]
    lines += [
        f"site {s}: A COPY OF ITS STATE was refused, {e['times']} time(s), last {e['at']} (session {e['number']} "
        f"beside {e['beside']}); see 'Two copies of a site' in the runbook"
        for s, e in forks.items()
    ]
    lines += [f"run  {run:<30} {state}{': ' + why[run] if why[run] else ''}" for run, state in runs.items()]
    for name, days in certificates.items():
        if days < _SOON_DAYS:
            ends = f"ends in {days:.0f} days" if days > 0 else "HAS EXPIRED"
            remedy = "; ecgfed coordinator renew" + (" --authority" if name == "authority" else "")
            lines.append(f"the certificate of the {name} {ends}{remedy}")
    return content, lines


def _left_out(folder: Path) -> dict[str, str]:
    return dict(json.loads((folder / "run.json").read_text(encoding="utf-8")).get("left_out") or {})


def _status(folder: Path) -> str:
    try:
        return str(json.loads((folder / "run.json").read_text(encoding="utf-8"))["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged: run.json cannot be read"
