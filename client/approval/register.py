"""What this site approved to run, on its disk: one line for each approval or withdrawal, the last one counts."""

from __future__ import annotations

import getpass
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from client.approval.people import Person, is_signed
from client.site.lived import retired_studies
from client.site.logs import from_its_start
from client.site.settings import FEDERATION, ApprovalsPolicy
from ecgshared.errors import ConfigError, PrivacyError
from ecgshared.service.files import private_folder, write_atomically
from ecgshared.study.study import Study, load_study

Kind = Literal["study", "code", "envelope", "amendment"]
FILE = "approvals.jsonl"
ANYBODY = ApprovalsPolicy()
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Approval:
    """One approval in force.

    Attributes
    ----------
    at : when, ISO 8601 in UTC.
    by : the operating system's name of who approved.
    what : a study's name, who leaves a run, or the version of the software, for people.
    """

    kind: Kind
    sha256: str
    at: str
    by: str
    what: str


def approvals_file(state: Path, federation: str = FEDERATION) -> Path:
    """Return where a federation's approvals lie: what one may run, another may not."""
    return state / (FILE if federation == FEDERATION else f"approvals-{federation}.jsonl")


def federations(state: Path) -> list[str]:
    """Return the federations that this site keeps approvals of."""
    named = (path.stem.removeprefix("approvals-") for path in sorted(state.glob("approvals-*.jsonl")))
    return [*([FEDERATION] if (state / FILE).exists() else []), *named]


def in_force(
    state: Path, federation: str = FEDERATION, policy: ApprovalsPolicy = ANYBODY
) -> dict[tuple[str, str], Approval]:
    """Return the approvals in force by (kind, sha256); where named people are needed, those that enough have signed.

    Raises
    ------
    ConfigError : the file is damaged. It may be a withdrawal that cannot be read, so nothing counts as approved.
    """
    path = approvals_file(state, federation)
    if not path.exists() and not (state / "keys").exists():
        return {}
    try:
        lines = from_its_start(path).lines()
    except PrivacyError as error:
        raise ConfigError(f"{error.what}; nothing is approved", where=path, remedy=error.remedy) from None
    except OSError as error:
        raise ConfigError(f"the approvals cannot be read ({type(error).__name__})", where=path) from None
    found: dict[tuple[str, str], Approval] = {}
    by: dict[tuple[str, str], set[str]] = {}
    over = retired_studies(state)
    for number, entry in enumerate(lines, start=1):
        try:
            approval = Approval(*(str(entry[key]) for key in ("kind", "sha256", "at", "by", "what")))  # type: ignore[arg-type]
            withdrawn = entry.get("withdrawn", False)
            if approval.kind not in get_args(Kind) or not _SHA256.match(approval.sha256) or type(withdrawn) is not bool:
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                "a line of the approvals is damaged; until it is mended nothing is approved",
                where=f"{path}, line {number}",
                remedy="restore the file, or remove it and approve again",
            ) from None
        key = (approval.kind, approval.sha256)
        if withdrawn or (approval.kind == "study" and approval.sha256 in over):
            found.pop(key, None)
            by.pop(key, None)
        elif not policy.needed:
            found[key] = approval
        elif is_signed(policy, entry, federation):
            # By key: one person under two names is one.
            by.setdefault(key, set()).add(policy.people[approval.by])
            if len(by[key]) >= policy.needed:
                found[key] = approval
    return found


def signers(state: Path, federation: str, policy: ApprovalsPolicy, kind: Kind, sha256: str) -> list[str]:
    """Return who has signed an approval that stands, whether or not they are enough."""
    names: list[str] = []
    for entry in from_its_start(approvals_file(state, federation)).lines():
        if (entry.get("kind"), entry.get("sha256")) != (kind, sha256):
            continue
        if entry.get("withdrawn"):
            names = []
        elif is_signed(policy, entry, federation) and entry["by"] not in names:
            names.append(str(entry["by"]))
    return names


def record(
    state: Path,
    kind: Kind,
    sha256: str,
    what: str,
    *,
    withdrawn: bool = False,
    federation: str = FEDERATION,
    person: Person | None = None,
) -> None:
    """Write down an approval, by a named person or by the machine's user, or its withdrawal, and wait for the disk."""
    line: dict[str, Any] = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kind": kind,
        "sha256": sha256,
        "by": _user(),
        "what": what,
    }
    if person is not None:
        line = person.sign(line | {"federation": federation})
    try:
        from_its_start(approvals_file(state, federation)).append([line | ({"withdrawn": True} if withdrawn else {})])
    except PrivacyError as error:
        raise ConfigError(error.what, where=error.where, remedy=error.remedy) from error


def study_path(state: Path, sha256: str) -> Path:
    """Return where the site keeps its own copy of an approved study."""
    return state / "studies" / f"{sha256}.yaml"


def approve_study(state: Path, path: Path, *, federation: str = FEDERATION, person: Person | None = None) -> Study:
    """Keep the site's own copy of a study, then record its approval; return the study of that copy."""
    study = load_study(path)
    if study.sha256 in retired_studies(state):
        raise ConfigError(
            "this study was answered here before the site's key was lost; under the new split, former lockbox patients "
            "would go into its training",
            where=path,
            remedy="a new study may be asked; this one is over at this site",
        )
    kept = study_path(state, study.sha256)
    private_folder(kept.parent)
    write_atomically(kept, path.read_bytes(), private=True)
    record(state, "study", load_copy(state, study.sha256).sha256, study.name, federation=federation, person=person)
    return study


def load_copy(state: Path, sha256: str) -> Study:
    """Read the site's own copy of a study; raise :class:`ConfigError` where it is not what was approved."""
    path = study_path(state, sha256)
    study = load_study(path)
    if study.sha256 != sha256:
        raise ConfigError(
            "the site's copy of the study was changed since it was approved",
            where=path,
            remedy="approve the study's file again",
        )
    return study


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
