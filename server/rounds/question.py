"""One question to the sites, as it is sent to each, and how its answers are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import RecordDict
from numpy.typing import NDArray

from ecgshared.wire.bytes import encode_request, to_records
from ecgshared.wire.protocol import Request
from server.rounds.step_context import Accept


@dataclass(frozen=True)
class Question:
    """One request to the sites, as it is sent, and how its answers are read.

    ``own`` : the records of those that are sent something of their own.
    """

    request: Request
    stage: str
    records: RecordDict
    accept: Accept | None
    own: Mapping[str, RecordDict]

    @classmethod
    def of(
        cls, request: Request, stage: str, accept: Accept | None, own: Mapping[str, Mapping[str, NDArray[Any]]]
    ) -> Question:
        """Write a request once for all sites, and again for each that is sent arrays of its own."""
        records = {
            site: to_records(encode_request(replace(request, arrays={**request.arrays, **arrays})))
            for site, arrays in own.items()
        }
        return cls(request, stage, to_records(encode_request(request)), accept, records)

    def records_for(self, site: str) -> RecordDict:
        """Return what a site is sent."""
        return self.own.get(site, self.records)

    def bytes_to(self, site: str) -> int:
        """Return the size of what a site is sent."""
        return len(self.records_for(site).array_records["body"]["body"].data)

    @property
    def name(self) -> str:
        """What it is called where people read."""
        return f"step {self.request.step!r}, {self.request.phase} {self.request.round}"
