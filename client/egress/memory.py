"""Whom figures of this site have spoken of: kept chained and for ever, over all steps, studies and runs.

``state/groups/told.jsonl`` names nobody: recordings and patients stand there under the first eight bytes of their
pseudonyms, each once, and a set is a bitmap over them. A set is asked about before it is answered and written down
before the answer can leave, so that a crash can over-count and never under-count.

People who left the cohort since (they opted out, or the table lost them) were not chosen by who asks: a set that lacks
a few of them is closed only for figures that were told with them already.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.site.keys import log_key
from ecgshared.arrays import Bools, Ints
from ecgshared.errors import PrivacyError, RefusalCode, Refused
from ecgshared.privacy.audit import exposes
from ecgshared.service.chain import ChainedLog
from ecgshared.service.files import now

FOLDER, FILE, ANCHOR = "groups", "told.jsonl", "groups.anchor"

Keys = NDArray[np.uint64]


@dataclass(frozen=True)
class Asked:
    """One set of ECGs that a step would speak of.

    Attributes
    ----------
    topic : sets of one topic are held against each other ("group", "sums of age").
    name : for people. figures : what is told of it; the same text where it is the same as before.
    records, patients : shape = (k,): the ECGs of the set, and whose they are.
    few : what fewer patients than these would be told apart by stays closed; a set of fewer is told nothing of anyway.
    """

    topic: str
    name: str
    figures: str
    records: Keys
    patients: Keys
    few: int

    @cached_property
    def size(self) -> int:
        """Distinct patients."""
        return len(np.unique(self.patients))

    @cached_property
    def digest(self) -> str:
        """Name of the set, the same for the same ECGs."""
        return digest_of(self.records)


@dataclass(frozen=True)
class Conflict:
    """Why a set may not be told of.

    Attributes
    ----------
    records : the few ECGs that lie between it and what was told.
    by : the steps that told, in words. gone : all of those ECGs have left the cohort since.
    """

    asked: Asked
    records: Keys
    by: str
    gone: bool

    def in_words(self) -> str:
        """Say it without a count."""
        what = "people who left since" if self.gone else f"fewer than {self.asked.few} patients"
        return f"{self.asked.name!r} differs from what was told by {self.by} by {what}"


@dataclass(frozen=True)
class _Told:
    topic: str
    set: str
    figures: str
    step: str
    study: str
    name: str
    at: str


class GroupMemory:
    """The memory below a site's ``state`` folder; None: one that lasts as long as the object."""

    def __init__(self, state: Path | None) -> None:
        self._log = None
        if state is not None:
            self._log = ChainedLog(state / FOLDER / FILE, state / "keys" / ANCHOR, lambda: log_key(state, FOLDER))
        self._read = 0
        self._records, self._patients = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        self._sets: dict[str, Ints] = {}
        self._told: list[_Told] = []

    def judge(
        self, asked: Sequence[Asked], *, here: Keys | None, beside: Sequence[Asked] = ()
    ) -> list[Conflict | None]:
        """Judge sets one after the other, each beside those before it that were not refused.

        Parameters
        ----------
        beside : sets judged before, of which none was refused; they count as told.
        """
        self._load()
        found: list[Conflict | None] = [None] * len(asked)
        for topic in dict.fromkeys(one.topic for one in asked):
            mine = [i for i, one in enumerate(asked) if one.topic == topic]
            others = [one for one in beside if one.topic == topic]
            judged = self._judged_topic([asked[i] for i in mine], here, others)
            for i, conflict in zip(mine, judged, strict=True):
                found[i] = conflict
        return found

    def conflict(self, asked: Sequence[Asked], *, here: Keys | None) -> Conflict | None:
        """Return the first of several sets that may not be told of after all told before, and after those before it.

        Parameters
        ----------
        here : the ECGs of the whole cohort as it is now; None: nobody left.

        Raises
        ------
        Refused : GATE_CLOSED where the memory cannot be read, or was tampered with.
        """
        return next((found for found in self.judge(asked, here=here) if found is not None), None)

    def admitted(self, asked: Sequence[Asked], *, here: Keys | None, beside: Sequence[Asked] = ()) -> Bools:
        """Say of each set whether it may be told of, the most wanted first; one that may not is passed over.

        Parameters
        ----------
        beside : as :meth:`judge`.
        """
        judged = self.judge(asked, here=here, beside=beside)
        return np.array([one.size >= one.few and found is None for one, found in zip(asked, judged, strict=True)], bool)

    def remember(
        self,
        asked: Sequence[Asked],
        *,
        study: str,
        study_name: str,
        step: str,
        run: str,
        present: tuple[Keys, Keys],
    ) -> None:
        """Write down that sets are told of, and wait until that is on the disk; what stands there is not repeated.

        Parameters
        ----------
        present : ECGs of the whole cohort, and whose they are; they are no newcomers from now on.

        Raises
        ------
        Refused : as :meth:`conflict`; DATA_UNAVAILABLE where it cannot be written.
        """
        self._load()
        worth = [one for one in asked if one.size >= one.few > 1]
        known = {(t.topic, t.set, t.figures, t.step, t.study) for t in self._told}
        if all((one.topic, one.digest, one.figures, step, study) in known for one in worth):
            return
        at = now()
        if self._log is None:
            raise RuntimeError("a memory without a folder writes nothing down")
        log = self._log

        def made(_: list[dict[str, Any]]) -> list[dict[str, Any]]:
            self._take(log.lines())
            lines = self._people(*present)
            self._take_new(lines, 0)
            for one in worth:
                told = {"topic": one.topic, "set": one.digest, "figures": one.figures, "step": step}
                told |= {"study": study, "study_name": study_name, "name": one.name}
                new = self._set(one)
                if not any((t.topic, t.set, t.figures, t.step, t.study) == _key(told) for t in self._told):
                    new.append({"kind": "told", "at": at, "run": run, **told})
                self._take_new(new, 0)
                lines += new
            return lines

        try:
            log.append(made)
        except PrivacyError as error:
            raise _closed(error) from error
        except OSError as error:
            raise Refused(RefusalCode.DATA_UNAVAILABLE, f"the memory of groups: {type(error).__name__}") from error

    def knows(self, records: Keys) -> Bools:
        """Say which ECGs were in the cohort when figures were told before; shape = (k,)."""
        self._load()
        return np.isin(records, self._records)

    def _judged_topic(
        self, asked: list[Asked], here: Keys | None, beside: list[Asked] | None = None
    ) -> list[Conflict | None]:
        names = list(dict.fromkeys(t.set for t in self._told if t.topic == asked[0].topic))
        known = set(names)
        new = [one for one in beside or () if one.digest not in known and one.size >= one.few > 1]
        known |= {one.digest for one in new}
        if all(one.digest in known or not one.size >= one.few > 1 for one in asked):
            return [None] * len(asked)
        # Those judged before stand where sets asked for stand, ahead of them, and are not judged again.
        asked, first = [*new, *asked], len(new)
        records, patients = self._universe(asked)
        index = _Index(records)
        matrix = np.zeros((len(names) + len(asked), len(records)), dtype=np.bool_)
        for i, name in enumerate(names):
            matrix[i, index.of(self._records[self._sets[name]])] = True
        for i, one in enumerate(new, start=len(names)):
            matrix[i, index.of(one.records)] = True
        patient = np.unique(patients, return_inverse=True)[1].astype(np.int64)
        rows, judged = list(range(len(names) + first)), list[Conflict | None]()
        for i, one in enumerate(asked[first:], start=len(names) + first):
            judged.append(None)
            if one.digest in known or not one.size >= one.few > 1:
                continue
            matrix[i, index.of(one.records)] = True
            found = exposes(matrix[rows], matrix[i], patient, one.few)
            if found is not None:
                between, by = records[found.rows], [rows[j] for j in found.by]
                gone = here is not None and not np.isin(between, here).any()
                if not gone or self._same_figures(one, [names[j] for j in by if j < len(names)]):
                    judged[-1] = Conflict(one, between, self._who(by, names, asked), gone)
                    continue
            rows.append(i)
            known.add(one.digest)
        return judged

    def _same_figures(self, one: Asked, sets: list[str]) -> bool:
        return any(t.topic == one.topic and t.set in sets and t.figures == one.figures for t in self._told)

    def _who(self, by: list[int], names: list[str], asked: list[Asked]) -> str:
        words = []
        for j in by:
            if j < len(names):
                first = next(t for t in self._told if t.set == names[j])
                words.append(f"step {first.step!r} of study {first.name!r} on {first.at[:10]}")
            else:
                words.append(f"this study of {asked[j - len(names)].name!r}")
        shown = list(dict.fromkeys(words))
        return " and ".join(shown[:3]) + (" and others" if len(shown) > 3 else "") or "other steps"

    def _universe(self, asked: Sequence[Asked]) -> tuple[Keys, Keys]:
        records = np.concatenate([self._records, *(one.records for one in asked)])
        patients = np.concatenate([self._patients, *(one.patients for one in asked)])
        # Of an ECG whose patient was another one before, the patient it is now.
        _, last = np.unique(records[::-1], return_index=True)
        keep = np.sort(len(records) - 1 - last)
        return records[keep], patients[keep]

    def _people(self, records: Keys, patients: Keys) -> list[dict[str, Any]]:
        new = ~np.isin(records, self._records)
        return [{"kind": "people", "keys": _packed(np.stack([records[new], patients[new]]))}] if new.any() else []

    def _set(self, one: Asked) -> list[dict[str, Any]]:
        if one.digest in self._sets:
            return []
        bits = np.packbits(np.isin(self._records, one.records)).tobytes()
        return [{"kind": "set", "set": one.digest, "bits": base64.b64encode(zlib.compress(bits)).decode()}]

    def _load(self) -> None:
        if self._log is None:
            return
        try:
            self._take(self._log.lines())
        except PrivacyError as error:
            raise _closed(error) from error
        except OSError as error:
            raise Refused(RefusalCode.DATA_UNAVAILABLE, f"the memory of groups: {type(error).__name__}") from error

    def _take(self, lines: list[dict[str, Any]]) -> None:
        self._take_new(lines, self._read)

    def _take_new(self, lines: list[dict[str, Any]], taken: int) -> None:
        for line in lines[taken:]:
            if line.get("kind") == "people":
                pair = np.frombuffer(base64.b64decode(line["keys"]), dtype="<u8").reshape(2, -1)
                self._records = np.concatenate([self._records, pair[0].astype(np.uint64)])
                self._patients = np.concatenate([self._patients, pair[1].astype(np.uint64)])
            elif line.get("kind") == "set":
                self._sets[line["set"]] = members(line["bits"])
            elif line.get("kind") == "told":
                self._told.append(_Told(*_key(line), line["study_name"], line["at"]))
            self._read += 1


class _Index:
    """Places of records in an array of distinct ones."""

    def __init__(self, records: Keys) -> None:
        self._order = np.argsort(records, kind="stable")
        self._sorted = records[self._order]

    def of(self, wanted: Keys) -> Ints:
        return np.asarray(self._order[np.searchsorted(self._sorted, wanted)], dtype=np.int64)


def digest_of(records: Keys) -> str:
    """Return the name of a set of ECGs."""
    return hashlib.sha256(np.sort(records).astype("<u8").tobytes()).hexdigest()[:32]


def members(bits: str) -> Ints:
    """Return which of the people written down so far a set of the log holds, by their numbers."""
    unpacked = np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(bits)), dtype=np.uint8))
    return np.flatnonzero(unpacked).astype(np.int64)


def _key(line: dict[str, Any]) -> tuple[str, str, str, str, str]:
    return line["topic"], line["set"], line["figures"], line["step"], line["study"]


def _packed(keys: Keys) -> str:
    return base64.b64encode(keys.astype("<u8").tobytes()).decode()


def _closed(error: PrivacyError) -> Refused:
    return Refused(
        RefusalCode.GATE_CLOSED,
        "whom this site has spoken of cannot be known, so nothing may be told",
        where=error.where,
        value=error.what,
        remedy=error.remedy,
    )
