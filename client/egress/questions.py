"""What a site was asked with: artefacts that a run may not change, and the different scores it answered about.

``state/questions/asked.jsonl``, chained. An artefact (``<step>.<array>``) is what it was when a run first sent it. A
score is what trained or fitted arrays make of an ECG: sent weights are a question, and enough of them, each about the
same people, could be solved for those people. So many different ones are answered about one group, over all studies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.site.keys import log_key
from ecgshared.errors import PrivacyError, RefusalCode, Refused
from ecgshared.service.chain import ChainedLog
from ecgshared.service.files import now

FOLDER, FILE, ANCHOR = "questions", "asked.jsonl", "questions.anchor"


class Questions:
    """The record below a site's ``state`` folder."""

    def __init__(self, state: Path) -> None:
        self._log = ChainedLog(state / FOLDER / FILE, state / "keys" / ANCHOR, lambda: log_key(state, FOLDER))

    def bind(self, arrays: Mapping[str, Any], *, study: str, run: str) -> None:
        """Hold a run to the artefacts it sent first.

        Raises
        ------
        Refused : BAD_REQUEST where one is another than before; GATE_CLOSED, DATA_UNAVAILABLE as the record is.
        """
        sent = {name: _digest(arrays[name]) for name in sorted(arrays) if "." in name}

        def made(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
            held = {
                line["name"]: line["sha256"]
                for line in lines
                if line.get("kind") == "artefact" and line["study"] == study and line["run"] == run
            }
            for name, digest in sent.items():
                if held.get(name, digest) != digest:
                    raise Refused(
                        RefusalCode.BAD_REQUEST,
                        "this run sent the artefact before, with other content",
                        value=name,
                        allowed="the artefact of a step as it was",
                    )
            new = [name for name in sent if name not in held]
            at = now()
            return [
                {"kind": "artefact", "at": at, "study": study, "run": run, "name": n, "sha256": sent[n]} for n in new
            ]

        self._append(made)

    def count(self, score: str, groups: Sequence[str], *, most: int, study: str, step: str) -> None:
        """Count a score about groups before it is answered; one counted before is free.

        Parameters
        ----------
        groups : names of the sets of ECGs, see :attr:`client.egress.memory.Asked.digest`.
        most : different scores that are answered about one of them.

        Raises
        ------
        Refused : BUDGET_SPENT; GATE_CLOSED, DATA_UNAVAILABLE as the record is.
        """

        def made(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
            asked: dict[str, set[str]] = {group: set() for group in groups}
            for line in lines:
                if line.get("kind") == "score" and line["group"] in asked:
                    asked[line["group"]].add(line["score"])
            new = [group for group in groups if score not in asked[group]]
            if any(len(asked[group]) >= most for group in new):
                raise Refused(
                    RefusalCode.BUDGET_SPENT,
                    "this group was judged by as many different scores as the site answers about, over all studies",
                    where="limits.lockbox_scores, limits.validation_scores",
                    allowed=f"{most} different ones",
                    remedy="raise the limit in the site file only where each score is one that sites trained",
                )
            at = now()
            return [
                {"kind": "score", "at": at, "group": group, "score": score, "study": study, "step": step}
                for group in new
            ]

        self._append(made)

    def _append(self, made: Any) -> None:
        try:
            self._log.append(made)
        except PrivacyError as error:
            raise Refused(
                RefusalCode.GATE_CLOSED,
                "what this site was asked before cannot be known, so nothing may be answered",
                where=error.where,
                value=error.what,
                remedy=error.remedy,
            ) from error
        except OSError as error:
            raise Refused(RefusalCode.DATA_UNAVAILABLE, f"the record of questions: {type(error).__name__}") from error


def score_of(arrays: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return a name of the score that arrays make, the same for the same content; "" where there are none."""
    if not names:
        return ""
    whole = hashlib.sha256()
    for name in sorted(names):
        whole.update(name.rpartition(".")[2].encode() + b"\0" + _digest(arrays[name]).encode())
    return whole.hexdigest()[:32]


def _digest(array: Any) -> str:
    made = np.ascontiguousarray(array)
    return hashlib.sha256(f"{made.shape}{made.dtype}".encode() + made.tobytes()).hexdigest()[:32]
