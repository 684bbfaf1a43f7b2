"""The run folder: one study's run, from its first message to its report, on disk at every moment.

run.json          what runs, with which versions, and how far it is
study.yaml        the study as it was given
history.jsonl     one line per request to the sites: who answered, who did not and why, seconds, bytes, metrics
releases.jsonl    what left each site: kinds, fields, withheld cells, bytes
events.jsonl      what befell the run from outside: submitted, submitted again, resumed and why; a damaged checkpoint
live.json         what is going on: step, round, who is late (the same)
stop              there when the coordinator wants the run to end
imports/          <sha256>, what steps took from other runs
amendments/       <number>.yaml, signed changes of membership, the last of which holds
artefacts/        <step>.json and <step>.safetensors, written when a step is done
steps/<step>/     checkpoints of a step in progress
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.numpy import load_file
from safetensors.numpy import save as save_tensors

from ecgshared.errors import RunError
from ecgshared.service.files import append_lines, now, write_atomically
from ecgshared.stages.results.base import StageResult
from ecgshared.study.amendment import Amendment, load_amendment
from ecgshared.study.registry import shared_room
from ecgshared.study.study import Study, load_study
from ecgshared.wire.protocol import FrozenFile, StepConfig
from server.rounds.frozen import read_frozen
from server.rounds.step_context import Artefact

FORMAT_VERSION = 1
_RESERVE, _RESERVE_BYTES = ".reserve", 1 << 16
_LOCK_PATIENCE_SECONDS = 0.5
"""Whoever only looks whether a run is held holds it for an instant."""


class RunFolder:
    """One run's folder, locked against a second coordinator while open."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path, self._lock = path, lock
        self._live: dict[str, Any] = {}

    @classmethod
    def create(cls, path: Path, study_file: Path, *, backend: str, status: str = "running") -> RunFolder:
        """Start a folder for a study; raise :class:`RunError` where a run stands already."""
        if (path / "run.json").exists():
            raise RunError(
                "a run stands here already",
                where=path,
                remedy="resume it with --resume, or choose another --out",
            )
        study = load_study(study_file)
        frozen = {f.sha256: read_frozen(study_file.parent / f.file, f.sha256) for f in _frozen(study)}
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path, _locked(path))
        folder._keep_reserve()
        write_atomically(path / "study.yaml", study_file.read_bytes())
        (path / "artefacts").mkdir(exist_ok=True)
        (path / "imports").mkdir(exist_ok=True)
        for sha256, content in frozen.items():
            write_atomically(path / "imports" / sha256, content)
        folder.update(
            format_version=FORMAT_VERSION,
            run=f"{study.name}-{time.strftime('%Y%m%dT%H%M%S')}-{os.urandom(4).hex()}",
            study=study.name,
            study_sha256=study.sha256,
            status=status,
            started=now(),
            ended=None,
            backend=backend,
            versions={
                "python": platform.python_version(),
                **{name: version(name) for name in ("ecgfed", "flwr", "torch", "numpy")},
            },
            sites=list(study.sites.all),
        )
        return folder

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """Open a run that stopped; raise :class:`RunError` where there is none, or another process holds it."""
        if not (path / "run.json").exists():
            raise RunError("there is no run here", where=path, remedy="start one without --resume")
        folder = cls(path, _locked(path, _LOCK_PATIENCE_SECONDS))
        folder._keep_reserve()
        if folder.study.sha256 != folder.info["study_sha256"]:
            raise RunError("the run's study.yaml was changed since the run began", where=path / "study.yaml")
        return folder

    def _keep_reserve(self) -> None:
        """Keep a little of the disk, so that a full one can still be told of; on a full disk there is none to keep."""
        with suppress(OSError):
            if not (self.path / _RESERVE).exists():
                write_atomically(self.path / _RESERVE, os.urandom(_RESERVE_BYTES))

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)

    @property
    def info(self) -> dict[str, Any]:
        """The content of run.json."""
        return dict(json.loads((self.path / "run.json").read_text(encoding="utf-8")))

    @property
    def study(self) -> Study:
        """The study of this run, without the sites that left it."""
        study, amendments = load_study(self.path / "study.yaml"), self.info.get("amendments", [])
        if not amendments:
            return study
        file = self._amendment_file(len(amendments))
        found = load_amendment(file)
        if found.sha256 != amendments[-1] or found.study_sha256 != study.sha256 or found.run != self.info["run"]:
            raise RunError("is not the amendment that the run notes", where=file, remedy="restore it from your backup")
        return found.apply(study)

    def amend(self, amendment: Amendment) -> Path:
        """Keep the run's next amendment, which holds from now on; return its file."""
        file = self._amendment_file(amendment.number)
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, amendment.as_yaml())
        self.update(amendments=[*self.info.get("amendments", []), amendment.sha256])
        return file

    def _amendment_file(self, number: int) -> Path:
        return self.path / "amendments" / f"{number}.yaml"

    def update(self, **changes: Any) -> None:
        """Change keys of run.json atomically."""
        info = self.info if (self.path / "run.json").exists() else {}
        write_atomically(self.path / "run.json", json.dumps(info | changes, indent=2, sort_keys=True).encode())

    def end_in_need(self, **changes: Any) -> None:
        """Change keys of run.json where the disk may be full: what is kept in reserve makes room for it."""
        (self.path / _RESERVE).unlink(missing_ok=True)
        self.update(**changes)

    def note(self, what: str, why: str) -> None:
        """Append what befell the run to ``events.jsonl``."""
        self.append("events.jsonl", {"at": now(), "what": what, "why": why})

    def append(self, name: str, *lines: dict[str, Any]) -> None:
        """Append JSON lines to ``history.jsonl``, ``releases.jsonl`` or ``events.jsonl``: all of them, or none."""
        append_lines(self.path / name, [json.dumps(line, sort_keys=True) for line in lines], private=False)

    def tell(self, what: dict[str, Any]) -> None:
        """Write what is going on for whoever watches; unlike all else here it may be lost."""
        self._live |= what
        write_atomically(self.path / "live.json", json.dumps({**self._live, "at": now()}).encode(), sync=False)

    def tell_progress(self, step: str, done: int, total: int, text: str) -> None:
        """Write how far a step is."""
        self.tell({"progress": {"step": step, "done": done, "total": total, "text": text}})

    def stop_asked(self) -> bool:
        """Whether the coordinator wants the run to end."""
        return (self.path / "stop").exists()

    def step_folder(self, step: str) -> Path:
        """Return (and make) the folder of a step in progress."""
        folder = self.path / "steps" / step
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def artefact(self, step: str) -> Artefact[Any] | None:
        """Return a finished step's artefact, None where it is not finished; raise RunError where it was altered."""
        file = self.path / "artefacts" / f"{step}.json"
        if not file.exists():
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
        tensors = self.path / "artefacts" / f"{step}.safetensors"
        if hashlib.sha256(tensors.read_bytes()).hexdigest() != content["arrays_sha256"]:
            raise RunError("does not match the hash its step recorded", where=tensors, remedy="restore it, or run anew")
        return Artefact(step, content["stage"], _result(content, file), dict(load_file(tensors)))

    def imported(self, step: StepConfig) -> bytes:
        """Return the file that a step is imported from, its hash checked again."""
        if step.frozen is None:
            raise LookupError(f"step {step.id} is not imported")
        return read_frozen(self.path / "imports" / step.frozen.sha256, step.frozen.sha256)

    def save_artefact(self, artefact: Artefact[Any]) -> None:
        """Write a finished step's artefact; its JSON comes last and makes it count."""
        base = self.path / "artefacts" / artefact.step
        tensors = save_tensors(artefact.arrays)
        write_atomically(base.with_suffix(".safetensors"), tensors)
        content = {
            "format_version": FORMAT_VERSION,
            "step": artefact.step,
            "stage": artefact.stage,
            "arrays_sha256": hashlib.sha256(tensors).hexdigest(),
            "result": artefact.result.model_dump(mode="json"),
        }
        write_atomically(base.with_suffix(".json"), json.dumps(content, indent=1, allow_nan=False).encode())


def _frozen(study: Study) -> list[FrozenFile]:
    return [step.frozen for step in study.steps if step.frozen is not None]


def _result(content: dict[str, Any], file: Path) -> StageResult:
    """Return a stored result as its stage's model; raise :class:`RunError` where it does not fit."""
    model: type[StageResult] = shared_room(content["stage"]).Result
    try:
        return model.model_validate(content["result"])
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise RunError(
            f"holds a result that is none of {content['stage']}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}",
            where=file,
            remedy="go on with the version of ecgfed that made it, or run anew",
        ) from None


def is_held(path: Path) -> bool:
    """Whether a living process works on the run in ``path``."""
    try:
        descriptor = _locked(path)
    except RunError:
        return True
    os.close(descriptor)
    return False


def _locked(path: Path, patience_seconds: float = 0.0) -> int:
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() < end:
                time.sleep(0.01)
                continue
            os.close(descriptor)
            raise RunError(
                "another process is working on this run", where=path, remedy="wait for it, or stop it"
            ) from None
        return descriptor
