"""Which hospitals were in the sums that this site helped to open: of one question never two sets of them.

Two sums of one question, one with a hospital and one without it, tell that hospital's own numbers by their difference,
and no mask helps. So the hospitals of the first that was opened are those of every later one, whichever run or
amendment asks. A question is all that a step adds of one group (``pooled`` phases), or one round of what each site
answers for itself, as it was asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.egress.sum_files import refused
from ecgshared.service.files import private_folder, write_atomically
from ecgshared.wire.bytes import pack

FOLDER = "opened"


class OpenedSums:
    """What was opened of one step of one study.

    Parameters
    ----------
    folder : of the site's secure sums.
    """

    def __init__(self, folder: Path, study_sha256: str, step: str) -> None:
        self._path = folder / FOLDER / study_sha256[:24] / f"{step}.json"

    def require_same(self, question: str, members: Sequence[str]) -> None:
        """Write down who is in a sum before anything leaves that opens it.

        Raises
        ------
        Refused : SECURE_SUM_REFUSED where others were in an earlier sum of the same question.
        """
        known: dict[str, list[str]] = json.loads(self._path.read_text("utf-8")) if self._path.exists() else {}
        before = known.setdefault(question, sorted(members))
        if before != sorted(members):
            apart = ", ".join(sorted(set(before) ^ set(members)))
            raise refused(f"this sum was opened before with other hospitals: the difference would be that of {apart}")
        private_folder(self._path.parent)
        write_atomically(self._path, json.dumps(known, sort_keys=True).encode(), private=True, sync=True)


def question_of(phase: str, round_number: int, arrays: Mapping[str, Any]) -> str:
    """Name one round of a phase as it was asked; the same for the same arrays."""
    content = pack({}, {name: np.asarray(array) for name, array in sorted(arrays.items())})
    return f"{phase} {round_number} {hashlib.sha256(content).hexdigest()[:32]}"
