"""The operator's decision about what may run here: what each approval means, asked and recorded."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from client.approval.register import Kind, approve_study, in_force, record
from client.site.settings import SiteSettings, network_of
from ecgshared.errors import ConfigError
from ecgshared.service.fingerprint import code_sha256
from ecgshared.study.study import Study, load_study

_SHA256 = re.compile(r"^[0-9a-f]{64}$")
Confirmed = Callable[[list[str], str], bool]
"""Shows lines and asks for a word to be typed; True where it was."""


def approve(
    settings: SiteSettings, what: str, confirmed: Confirmed, groups: Callable[[Study], list[str]] = lambda _: []
) -> str:
    """Record an approval once it is confirmed; return what was done.

    Parameters
    ----------
    groups : says whom a study's steps speak of here, and what would be refused.

    Raises
    ------
    ConfigError : the study does not name this site, or the hash is not that of the installed code.
    """
    if what == "code" or (_SHA256.match(what) and not Path(what).exists()):
        return _approve_code(settings, what, confirmed)
    if what == "envelope":
        sha256 = network_of(settings).envelope
        lines = [f"envelope {sha256}", "It holds no code: the names of the two apps that every party has installed."]
        if not confirmed(lines, sha256[:8]):
            return "not approved"
        record(settings.state, "envelope", sha256, "the kit's", federation=settings.federation)
        return f"approved: envelope {sha256}"
    path = Path(what)
    study = load_study(path)
    if settings.site not in study.sites.all:
        raise ConfigError(
            f"the study does not name site {settings.site!r}", where=path, allowed=", ".join(study.sites.all)
        )
    from client.approval.show import show_study

    if not confirmed([*show_study(settings, study), *groups(study)], study.name):
        return "not approved"
    approved = approve_study(settings.state, path, federation=settings.federation)
    return f"approved: study {approved.name}, {approved.sha256}; the site's own copy is its configuration"


def withdraw(settings: SiteSettings, what: str) -> str:
    """Record that an approval is taken back; return what was done."""
    held = in_force(settings.state, settings.federation)
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
    return "study", load_study(Path(what)).sha256


def _approve_code(settings: SiteSettings, what: str, confirmed: Confirmed) -> str:
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
    record(settings.state, "code", installed, name, federation=settings.federation)
    return f"approved: code {installed}"
