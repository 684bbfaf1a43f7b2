"""Cells of one answer, held against all that was told before: those that would give a few away are withheld."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np

from client.dataset.data import SiteData
from client.egress.memory import Asked, GroupMemory, Keys
from client.rows.groups import few_of, keys_of
from ecgshared.arrays import Bools
from ecgshared.privacy.disclosure import DisclosureLimits


class Told:
    """What one answer would tell of, cell by cell.

    Parameters
    ----------
    memory : of the site. here : the ECGs of the whole cohort.
    figures : see :class:`client.egress.memory.Asked`.
    planned : gives the sets that steps of the study are about; they come first, so that no cell closes a step.

    Attributes
    ----------
    pending : sets that were admitted, to be remembered before the answer leaves.
    """

    def __init__(
        self,
        memory: GroupMemory,
        here: Keys | None,
        limits: DisclosureLimits,
        figures: str,
        planned: Callable[[], Sequence[Asked]] = tuple,
    ) -> None:
        self._memory, self._here, self._limits, self._figures = memory, here, limits, figures
        self._plan = planned
        self._planned_open: dict[str, list[Asked]] = {}
        self.pending: list[Asked] = []

    @classmethod
    def of_nobody(cls, limits: DisclosureLimits) -> Told:
        """Return one before which nothing was told."""
        return cls(GroupMemory(None), None, limits, "")

    @cached_property
    def _planned(self) -> list[Asked]:
        return list(self._plan())

    def admit(self, topic: str, data: SiteData, cells: Bools, names: Sequence[str]) -> Bools:
        """Say which cells may be told of, the most wanted first; shape = (k,).

        Parameters
        ----------
        topic : what is told of them; sets of one topic are held against each other.
        cells : bool array, shape = (k, n), over the rows of ``data``.
        """
        if self._limits.withhold_nothing:
            return np.ones(len(cells), dtype=np.bool_)
        asked = [self._asked(topic, data, cell, name) for name, cell in zip(names, cells, strict=True)]
        open_ones = self._open(topic, asked)
        self.pending += [one for one, is_open in zip(asked, open_ones, strict=True) if is_open]
        return open_ones

    def admit_group(self, data: SiteData, parts: Mapping[str, Bools], name: str) -> bool:
        """Say whether a group may be told of under several topics, under all of them or none.

        What is smaller than the least size passes: nothing is told of it anyway.

        Parameters
        ----------
        parts : of the group what each topic is about, bool arrays of shape = (n,).
        """
        if self._limits.withhold_nothing:
            return True
        asked = [self._asked(topic, data, part, name) for topic, part in parts.items()]
        asked = [one for one in asked if one.size >= one.few]
        if not all(self._open(one.topic, [one])[0] for one in asked):
            return False
        self.pending += asked
        return True

    def _asked(self, topic: str, data: SiteData, cell: Bools, name: str) -> Asked:
        records, patients = keys_of(data)
        return Asked(topic, name, self._figures, records[cell], patients[cell], few_of(topic, self._limits))

    def _open(self, topic: str, asked: Sequence[Asked]) -> Bools:
        if topic not in self._planned_open:
            planned = [one for one in self._planned if one.topic == topic]
            open_ones = self._memory.admitted(planned, here=self._here)
            self._planned_open[topic] = [one for one, is_open in zip(planned, open_ones, strict=True) if is_open]
        before = [*self._planned_open[topic], *(one for one in self.pending if one.topic == topic)]
        return self._memory.admitted(asked, here=self._here, beside=before)
