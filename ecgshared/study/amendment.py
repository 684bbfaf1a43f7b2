"""Amendments: a run goes on without sites that left for good, once those that stay have approved it.

An amendment is a small file, signed by the coordinator and bound to one run of one study. It takes sites out and
changes nothing else: the study stays what it was, hash and all, so that what was spent and told under it still counts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, field_validator

from ecgshared.config import Config, load
from ecgshared.study.study import Name, Study

SIGNED_AS = b"ecgfed amendment v1\0"
LEFT = "left-the-run"
"""Why a site is absent that an amendment took out."""
_APART = {"signature", "certificate"}


class Amendment(Config):
    """One change of membership.

    ``run`` is named as messages name it. ``without`` lists all that are out, those of earlier amendments too.
    ``signature`` is base64 of ECDSA with SHA-384 over :attr:`content`, by the key of ``certificate`` (PEM).
    """

    format_version: Literal[1] = 1
    amends: Name
    study_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")
    number: int = Field(ge=1, le=1000)
    without: tuple[Name, ...] = Field(min_length=1)
    why: str = Field(default="", max_length=200)
    at: str = Field(max_length=40)
    signature: str = Field(default="", max_length=400)
    certificate: str = Field(default="", max_length=10_000)

    @field_validator("without")
    @classmethod
    def _in_order(cls, sites: tuple[str, ...]) -> tuple[str, ...]:
        if list(sites) != sorted(set(sites)):
            raise ValueError("must name each site once, in the order of the alphabet")
        return sites

    @field_validator("why", "at")
    @classmethod
    def _one_line(cls, text: str) -> str:
        if text and not text.isprintable():
            raise ValueError("must be one line of printable text")
        return text

    @property
    def content(self) -> bytes:
        """What is signed and hashed: all but signature and certificate."""
        told = self.model_dump(mode="json", exclude=_APART)
        return json.dumps(told, sort_keys=True, separators=(",", ":")).encode()

    @property
    def sha256(self) -> str:
        """What messages and approvals name it by."""
        return hashlib.sha256(self.content).hexdigest()

    def apply(self, study: Study) -> Study:
        """Return the study as it goes on; it is still the study of its hash."""
        return study.amended(self.without, self.sha256)

    def as_yaml(self) -> bytes:
        """Return the file's bytes."""
        told = {**self.model_dump(mode="json"), "without": list(self.without)}
        return yaml.safe_dump(told, sort_keys=False).encode()


def is_amendment(path: Path) -> bool:
    """Whether a file looks like an amendment rather than a study; whether it holds is for :func:`load_amendment`."""
    try:
        with path.open("rb") as file:
            return any(line.startswith(b"amends:") for line in file.read(4096).splitlines())
    except OSError:
        return False


def load_amendment(path: Path) -> Amendment:
    """Read an amendment; raise :class:`ecgshared.errors.ConfigError` where it is none."""
    return load(Amendment, path)
