"""One study, step by step: ask, combine, store, go on. A finished step is never run twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from ecgshared.errors import EcgFedError, RunError, TooFewError
from ecgshared.service.files import now
from ecgshared.study.registry import room, shared_room
from ecgshared.study.secure import secure_sum_in_use, summed_phases
from ecgshared.study.study import Study
from ecgshared.wire.protocol import StepConfig
from server.rounds.federation import Federation
from server.rounds.flower_insides import RunNotRunningException
from server.rounds.frozen import take_up
from server.rounds.patience import Stopped, WaitingPolicy
from server.rounds.run_folder import RunFolder
from server.rounds.secure_sums import MembersLost, SecureSums
from server.rounds.step_context import Accept, Artefact, Metrics, Replies, StepContext

_LINK_ERRORS = (httpx.HTTPError, RunNotRunningException)
"""The SuperLink went away, or holds the run for dead: nothing that the study or a site did."""

Progress = Callable[[str, int, int, str], None]
"""Called with (step id, done, total, text)."""


def run_study(grid: Grid, folder: RunFolder, progress: Progress, policy: WaitingPolicy | None = None) -> None:
    """Run every unfinished step of the folder's study; raise what stops it after noting it in run.json.

    A step that no hospital is large enough for is left out with the reason (``left_out``), and so are those that use
    it; a run that is resumed tries them again.

    ``status`` becomes "done"; "stopped" by the coordinator; "paused" by an error that somebody can mend, a full disk
    among them; "interrupted" where the process was told to end or its SuperLink went away; "failed" by a fault of the
    software.
    """
    study = folder.study
    folder.update(status="running", stopped_by=None, waiting_for=None, left_out={})
    federation = Federation(grid, study, folder, policy)
    try:
        _run_steps(study, federation, folder, progress)
    except Stopped as error:
        folder.update(status="stopped", stopped_by=str(error), ended=now())
        raise
    except EcgFedError as error:
        folder.update(status="paused", stopped_by=str(error), ended=now())
        raise
    except (KeyboardInterrupt, SystemExit, ConnectionError, *_LINK_ERRORS) as error:
        folder.update(status="interrupted", stopped_by=type(error).__name__, ended=now())
        raise
    except OSError as error:
        told = RunError(
            f"this machine cannot read or write ({error.strerror or type(error).__name__})",
            where=error.filename or folder.path,
            remedy="free some space or mend the disk; the run is kept: go on with it (resume)",
        )
        folder.end_in_need(status="paused", stopped_by=str(told), ended=now())
        raise told from error
    except BaseException as error:
        folder.update(status="failed", stopped_by=type(error).__name__, ended=now())
        raise
    folder.update(status="done", ended=now())


def _run_steps(study: Study, federation: Federation, folder: RunFolder, progress: Progress) -> None:
    """Run every unfinished step; one that no hospital is large enough for is left out, and those that need it.

    Raises
    ------
    TooFewError : so many are left out that nothing but descriptions would be done.
    """
    left_out: dict[str, str] = {}
    refusal: TooFewError | None = None
    for step in study.steps:
        if folder.artefact(step.id) is not None:
            progress(step.id, 1, 1, "done")
            continue
        if lacking := [name for name in step.uses if name in left_out]:
            left_out[step.id] = f"needs {', '.join(lacking)}, left out"
        elif not study.members(step):
            left_out[step.id] = f"its hospitals left the run: {', '.join(study.first_members(step))}"
        else:
            try:
                if step.frozen is None:
                    folder.save_artefact(_run_step(step, study, federation, folder, progress))
                else:
                    folder.save_artefact(take_up(step, study, folder.imported(step)))
            except TooFewError as error:
                refusal = error
                left_out[step.id] = error.what + ("" if error.value is None else f" ({error.value})")
                folder.note(f"step {step.id} left out", left_out[step.id])
        if step.id in left_out:
            folder.update(left_out=left_out)
        progress(step.id, 1, 1, "left out" if step.id in left_out else "done")
    if refusal is not None and all(step.stage == "describe" or step.id in left_out for step in study.steps):
        raise refusal


def _run_step(
    step: StepConfig, study: Study, federation: Federation, folder: RunFolder, progress: Progress
) -> Artefact[Any]:
    """Run a step; begin it anew where sums of other people than the first ones would come of it."""
    without: dict[str, str] = {}
    while True:
        try:
            return _run_once(step, study, federation, folder, progress, without)
        except MembersLost as lost:
            if set(lost.sites) <= set(without):
                raise RunError(f"step {step.id!r}: {lost}", remedy="the run is kept: go on with it (resume)") from None
            without |= lost.sites
            folder.append(
                "events.jsonl", {"at": now(), "what": f"step {step.id} begins anew", "why": f"without {lost}"}
            )


def _run_once(
    step: StepConfig,
    study: Study,
    federation: Federation,
    folder: RunFolder,
    progress: Progress,
    without: Mapping[str, str],
) -> Artefact[Any]:
    shared_room(step.stage)
    inputs = _inputs(step, study, folder)
    sent = {f"{name}.{key}": array for name, used in inputs.items() for key, array in used.arrays.items()}
    members = study.members(step)
    step_folder = folder.step_folder(step.id)

    def ask_parts(
        phase: str, round: int, arrays: Mapping[str, NDArray[Any]], sites: tuple[str, ...], **how: Any
    ) -> Replies:
        return federation.ask(step.id, step.stage, phase, round, arrays, sites, **how)

    sums = (
        SecureSums(study, step, folder.info["run"], ask_parts, step_folder, frozenset(without))
        if secure_sum_in_use(study, step)
        else None
    )

    def ask(
        phase: str,
        *,
        round: int = 0,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        sites: tuple[str, ...] | None = None,
        quorum: int | None = None,
        accept: Accept | None = None,
        metrics: Metrics | None = None,
    ) -> Replies:
        everything = {**sent, **(arrays or {})}
        if sums is not None and phase in summed_phases(step.stage):
            replies = sums.add(phase, round, everything, sites=sites, accept=accept)
            told = dict(metrics(replies.by_site)) if metrics is not None else {}
            federation.note_sum(step.id, phase, round, replies, told)
            return replies
        return federation.ask(
            step.id,
            step.stage,
            phase,
            round,
            everything,
            sites or members,
            quorum=quorum,
            accept=accept,
            metrics=metrics,
        )

    context = StepContext(
        study=study,
        sites=members,
        inputs=inputs,
        ask=ask,
        folder=step_folder,
        progress=lambda done, total, text="": progress(step.id, done, total, text),
        rng=np.random.default_rng([study.seed, study.steps.index(step)]),
        note=lambda what, why: folder.note(what, f"step {step.id}: {why}"),
        ask_aside=lambda other, phase, sites: federation.ask_aside(other, study.step(other).stage, phase, sites),
    )
    artefact: Artefact[Any] = room("server", step.stage).run(step, context)
    if sums is None:
        return artefact
    return replace(artefact, result=artefact.result.model_copy(update={"together": sums.summed}))


def _inputs(step: StepConfig, study: Study, folder: RunFolder) -> dict[str, Artefact[Any]]:
    """Artefacts of all steps this one uses, directly or through others."""
    inputs: dict[str, Artefact[Any]] = {}
    waiting = list(step.uses)
    while waiting:
        name = waiting.pop()
        if name not in inputs:
            artefact = folder.artefact(name)
            if artefact is None:
                raise LookupError(f"step {name} has no artefact though the study's order put it first")
            inputs[name] = artefact
            waiting += study.step(name).uses
    return {s.id: inputs[s.id] for s in study.steps if s.id in inputs}
