"""The operator's decision about what may run here: what each approval means, asked and recorded."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from client.approval.amendments import KIND, approve_amendment, check_amendment, show_amendment
from client.approval.people import Person
from client.approval.register import Kind, approve_study, in_force, record, signers
from client.site.settings import SiteSettings, network_of
from ecgshared.errors import ConfigError
from ecgshared.service.fingerprint import code_sha256
from ecgshared.study.amendment import is_amendment, load_amendment
from ecgshared.study.study import Study, load_study

_SHA256 = re.compile(r"^[0-9a-f]{64}$")
Confirmed = Callable[[list[str], str], bool]
"""Shows lines and asks for a word to be typed; True where it was."""


def approve(
    settings: SiteSettings,
    what: str,
    confirmed: Confirmed,
    groups: Callable[[Study], list[str]] = lambda _: [],
    person: Person | None = None,
) -> str:
    """Record an approval once it is confirmed; return what was done.

    Parameters
    ----------
    groups : says whom a study's steps speak of here, and what would be refused.
    person : who approves, where the site wants named people to.

    Raises
    ------
    ConfigError : the study does not name this site, or the hash is not that of the installed code.
    """
    if settings.approvals.needed and person is None:
        raise ConfigError(
            f"this site wants {settings.approvals.needed} named people to approve",
            allowed=", ".join(settings.approvals.people),
            remedy="ecgfed site approve SITE.yaml WHAT --person NAME --person-key NAME.key",
        )
    if what == "code" or (_SHA256.match(what) and not Path(what).exists()):
        return _approve_code(settings, what, confirmed, person)
    if what == "envelope":
        sha256 = network_of(settings).envelope
        lines = [f"envelope {sha256}", "It holds no code: the names of the two apps that every party has installed."]
        if not confirmed(lines, sha256[:8]):
            return "not approved"
        record(settings.state, "envelope", sha256, "the kit's", federation=settings.federation, person=person)
        return _told(settings, "envelope", sha256, f"envelope {sha256}")
    path = Path(what)
    if is_amendment(path):
        return _approve_amendment(settings, path, confirmed, person)
    study = load_study(path)
    if settings.site not in study.sites.all:
        raise ConfigError(
            f"the study does not name site {settings.site!r}", where=path, allowed=", ".join(study.sites.all)
        )
    from client.approval.show import show_study

    if not confirmed([*show_study(settings, study), *groups(study)], study.name):
        return "not approved"
    approved = approve_study(settings.state, path, federation=settings.federation, person=person)
    told = f"study {approved.name}, {approved.sha256}; the site's own copy is its configuration"
    return _told(settings, "study", approved.sha256, told)


def withdraw(settings: SiteSettings, what: str) -> str:
    """Record that an approval is taken back; return what was done."""
    held = in_force(settings.state, settings.federation, settings.approvals)
    kind, sha256 = _named(settings, what)
    for key, approval in held.items():
        if key[1] == sha256 and kind in (None, key[0]):
            record(settings.state, approval.kind, sha256, approval.what, withdrawn=True, federation=settings.federation)
            return f"withdrawn: {approval.kind} {sha256}"
    raise ConfigError("nothing of that kind is approved", value=what, remedy="see state/approvals.jsonl")


def _named(settings: SiteSettings, what: str) -> tuple[Kind | None, str]:
    if what == "code":
        return "code", code_sha256()
    if what == "envelope":
        return "envelope", network_of(settings).envelope
    if _SHA256.match(what):
        return None, what
    if is_amendment(Path(what)):
        return KIND, load_amendment(Path(what)).sha256
    return "study", load_study(Path(what)).sha256


def _told(settings: SiteSettings, kind: Kind, sha256: str, what: str) -> str:
    """Say that it is approved, or whose approval it waits for."""
    policy = settings.approvals
    if (kind, sha256) in in_force(settings.state, settings.federation, policy):
        return f"approved: {what}"
    names = signers(settings.state, settings.federation, policy, kind, sha256)
    return (
        f"signed by {', '.join(names)}: {len(names)} of {policy.needed}; not approved until enough have signed: {what}"
    )


def _approve_amendment(settings: SiteSettings, path: Path, confirmed: Confirmed, person: Person | None) -> str:
    found, before = check_amendment(settings, path)
    if not confirmed(show_amendment(settings, found, before), found.amends):
        return "not approved"
    approve_amendment(settings, found, person)
    told = f"amendment {found.number} of run {found.run}: it goes on without {', '.join(found.without)}"
    return _told(settings, KIND, found.sha256, told)


def _approve_code(settings: SiteSettings, what: str, confirmed: Confirmed, person: Person | None) -> str:
    installed, name = code_sha256(), f"ecgfed {version('ecgfed')}"
    if what not in ("code", installed):
        raise ConfigError(
            "this is not the hash of the software installed here", value=what, allowed=installed,
            remedy="install the software it is the hash of, or approve `code`",
        )  # fmt: skip
    if not confirmed(
        [f"code {installed}", f"{name} as installed here: all its files, not the libraries it uses."], installed[:8]
    ):
        return "not approved"
    record(settings.state, "code", installed, name, federation=settings.federation, person=person)
    return _told(settings, "code", installed, f"code {installed}")
