"""A finished step of a run as the file that another study imports, or that is applied to an ECG."""

from __future__ import annotations

from ecgshared.errors import RunError
from server.rounds.frozen import frozen_bytes
from server.rounds.run_folder import RunFolder


def run_model(folder: RunFolder, step: str) -> bytes:
    """Return a finished step of a run as the bytes of a file, with all that stands around it.

    Raises
    ------
    RunError : the step gives nothing that could be applied, or is not finished.
    """
    study = folder.study
    exportable = [s.id for s in study.steps if s.can_be_frozen]
    if step not in exportable:
        raise RunError("this step cannot be exported", value=step, allowed=", ".join(exportable) or "none of this run")
    artefact = folder.artefact(step)
    if artefact is None:
        raise RunError("the step is not finished", where=folder.path, value=step, remedy="resume the run first")
    others = [found for s in study.steps if s.id != step and (found := folder.artefact(s.id)) is not None]
    return frozen_bytes(artefact, folder.info, study, others)
