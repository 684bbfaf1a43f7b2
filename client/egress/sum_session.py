"""One secure sum at a site: what it adds, the sizes that the sites add among themselves, and what opens the sum."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.egress.sum_files import Bytes, SumFiles, as_bytes, as_rows, read, refused, write
from client.egress.sum_members import SHARE, Group, shares_of, strictest
from ecgshared.errors import PrivacyError, RefusalCode, Refused
from ecgshared.privacy import shamir
from ecgshared.privacy.fixed_point import Words
from ecgshared.privacy.secure_sum import PublicKeys, context, hide, joined_counts
from ecgshared.privacy.summed import Summand, evidence_counts, require_enough
from ecgshared.wire.protocol import Together


@dataclass(frozen=True)
class Own:
    """What this site adds to a sum: its numbers, and the sizes of the groups behind them where the sites add those."""

    summand: Summand
    together: Together | None


@dataclass(frozen=True)
class Session:
    """One sum, and what was claimed for it: its keys hide one vector, of one phase and round of the stage, for ever.

    Attributes
    ----------
    held : what each member dealt to this site, a row each.
    pooled : whether the limits are those of all sites together.
    threshold : how many must send, and reveal.
    """

    group: Group
    number: int
    round: int
    held: Bytes
    pooled: bool
    threshold: int
    files: SumFiles

    @classmethod
    def claim(
        cls,
        group: Group,
        number: int,
        held: Bytes,
        *,
        round_number: int,
        what: dict[str, Any],
        pooled: bool,
        giving: bool,
        threshold: int,
        files: SumFiles,
    ) -> Session:
        """Return the sum of one round of one phase, and keep that it is this one's.

        Parameters
        ----------
        what : of the stage is asked. giving : this site gives something now, and does not only reveal.

        Raises
        ------
        Refused : its keys were used for another one, or this site reveals what it took no part in.
        """
        path = files.of_sum(round_number, "claim")
        if path.exists():
            known, _ = read(path)
            if {key: known[key] for key in what} != what or known["pooled"] != pooled:
                raise refused("the keys of this sum were used for another one")
        elif pooled and not giving:
            raise refused("this site took no part in the sum")
        else:
            # Not giving: it was lost before it gave anything to this sum; what it holds of others it may still reveal.
            write(path, what | {"pooled": pooled}, {}, sync=True)
        return cls(group, number, round_number, held, pooled, threshold, files)

    @property
    def published(self) -> PublicKeys:
        """What the members published for this sum."""
        return PublicKeys(
            context("sum", self.group.use.hex(), self.number, "masks"),
            {i: row[self.number].tobytes() for i, row in enumerate(self.group.keys)},
            {i: row[self.number].tobytes() for i, row in enumerate(self.group.commitments)},
        )

    def path(self, what: str) -> Path:
        """Return the file that holds a part of this sum."""
        return self.files.of_sum(self.round, what)

    # What this site adds --------------------------------------------------------------------------------------

    def keep(self, own: Own) -> None:
        """Keep what this site adds, so that a sum asked again is of the same numbers."""
        together = own.together
        header = {
            "short": sorted(own.summand.short),
            "told": dict(own.summand.told),
            "order": list(own.summand.arrays),
            "least_patients": None if together is None else together.least_patients,
        }
        arrays = {f"of.{name}": np.asarray(array) for name, array in own.summand.arrays.items()}
        if together is not None:
            arrays |= {
                "patients": np.ravel(together.patients).astype(np.float64),
                "events": np.ravel(together.events).astype(np.float64),
                "carried": np.asarray(together.carried, dtype=np.float64).reshape(-1, 2),
            }
        write(self.path("own"), header, arrays)

    def kept(self) -> Own | None:
        """Return what was kept, or None."""
        if not self.path("own").exists():
            return None
        header, arrays = read(self.path("own"))
        summand = Summand(
            {name: arrays[f"of.{name}"] for name in header["order"]}, frozenset(header["short"]), header["told"]
        )
        least = header["least_patients"]
        together = None if least is None else Together(arrays["patients"], arrays["events"], arrays["carried"], least)
        return Own(summand, together)

    def note_question(self, question: str) -> None:
        """Keep what this site is asked to add, where the sites answer each for itself."""
        write(self.path("asked"), {"question": question}, {})

    def question(self) -> str | None:
        """Return what the sum is of: all that the step adds of the sites together, or what was asked; None where this
        site gave nothing to it."""
        if self.pooled:
            return "pooled"
        return str(read(self.path("asked"))[0]["question"]) if self.path("asked").exists() else None

    def hidden(self, words: Words) -> Words:
        """Return this site's words under its masks."""
        group = self.group
        key, seed = (rows[self.number].tobytes() for rows in (group.secrets.keys, group.secrets.seeds))
        return hide(words, group.me, key, seed, self.published)

    # The sizes of the groups of all ---------------------------------------------------------------------------

    def deal_sizes(self, together: Together) -> tuple[Bytes, int]:
        """Return shares of the sizes of this site's groups, sealed for each member, and how many sizes there are."""
        counts = evidence_counts(together)
        n = len(self.group.members)
        dealt = [shamir.split(element, self.threshold, n) for element in shamir.pack(counts)]
        mine = [shamir.to_bytes([row[i] for row in dealt]) for i in range(n)]
        write(self.path("dealt"), {}, {"own": as_bytes(mine[self.group.me])})
        sealed = [self.group.seal(i, content, "evidence", self.number) for i, content in enumerate(mine)]
        return as_rows(sealed), len(counts)

    def add_sizes(self, sent: tuple[int, ...], envelopes: Bytes) -> Bytes:
        """Add the shares that members dealt, and return the sum sealed for each of them: together they learn the sizes
        of the group of all, the coordinator learns nothing."""
        group = self.group
        if group.me not in sent:
            raise refused("sizes of other sites than those of the sum")
        _, dealt = read(self.path("dealt"))
        rows = [
            dealt["own"].tobytes() if i == group.me else group.unseal(i, row.tobytes(), "evidence", self.number)
            for i, row in zip(sent, envelopes, strict=True)
        ]
        if len({len(row) for row in rows}) != 1:
            raise refused("sites count different groups")
        columns = zip(*(shamir.from_bytes(row) for row in rows), strict=True)
        summed = shamir.to_bytes([sum(column) % shamir.PRIME for column in columns])
        write(self.path("weighed"), {"sent": list(sent)}, {"own": as_bytes(summed)})
        n = len(group.members)
        return as_rows([group.seal(i, summed, "weighed", self.number, json.dumps(list(sent))) for i in range(n)])

    def require_limits(self, weighed: tuple[int, ...], envelopes: Bytes, together: Together) -> None:
        """Read the sizes of the groups of all, and hold the strictest limits against them.

        Raises
        ------
        Refused : TOO_FEW.
        """
        header, mine = read(self.path("weighed"))
        shares = {self.group.me: shamir.from_bytes(mine["own"].tobytes())}
        told = json.dumps(header["sent"])
        for i, row in zip(weighed, envelopes, strict=True):
            if i != self.group.me:
                shares[i] = shamir.from_bytes(self.group.unseal(i, row.tobytes(), "weighed", self.number, told))
        counts = joined_counts(shares, self.threshold, len(evidence_counts(together)))
        try:
            require_enough(counts, together, strictest(self.held))
        except PrivacyError as error:
            raise Refused(RefusalCode.TOO_FEW, error.what) from error

    # What opens it --------------------------------------------------------------------------------------------

    def shares(self, sent: tuple[int, ...]) -> tuple[Bytes, Bytes]:
        """Return shares of the seeds of those who sent, and of the keys of those who did not; else zeros."""
        if self.pooled and list(sent) != read(self.path("weighed"))[0]["sent"]:
            raise refused("a sum of other sites than those whose groups were found large enough")
        n = len(self.group.members)
        seeds, keys = (np.zeros((n, SHARE), dtype=np.uint8) for _ in range(2))
        for i in range(n):
            of_key, of_seed = shares_of(self.held, i, self.number)
            if i in sent:
                seeds[i] = of_seed
            else:
                keys[i] = of_key
        return seeds, keys


def indices(array: NDArray[Any], n: int) -> tuple[int, ...]:
    """Return places of members, ascending, each once; refuse others."""
    found = tuple(int(i) for i in np.ravel(array))
    if list(found) != sorted(set(found)) or any(not 0 <= i < n for i in found):
        raise refused("members that are none")
    return found
