"""A site runs only what it approved: the study of which it holds its own copy, and the software it reviewed.

Without a ``network:`` section the studies a site file names are its approvals (a simulation on one machine). With
one, only recorded approvals count (``client/approval/register.py``), and the installed code must be among them.
"""

from __future__ import annotations

from client.approval.register import in_force, load_copy
from client.site.settings import SiteSettings
from ecgshared.errors import ConfigError, RefusalCode, Refused
from ecgshared.service.fingerprint import code_sha256
from ecgshared.study.study import Study, load_study

_code: list[str] = []


def approved_study(settings: SiteSettings, study_hash: str) -> Study:
    """Return the approved study of this hash; raise :class:`Refused` where the site holds none."""
    if settings.network is not None:
        require_approved(settings, "study", study_hash)
    for study in _held(settings, study_hash):
        if study.sha256 == study_hash:
            if settings.site not in study.sites.all:
                raise Refused(RefusalCode.NOT_A_MEMBER, f"the study does not name site {settings.site!r}")
            return study
    raise _unknown(study_hash)


def readable_studies(settings: SiteSettings) -> list[Study]:
    """Return the studies the site file names that can be read; a broken one must not keep the others from running."""
    studies = []
    for path in settings.studies:
        try:
            studies.append(load_study(path))
        except ConfigError:
            continue  # `ecgfed site check` names it; a study that cannot be read is not approved
    return studies


def require_approved(settings: SiteSettings, kind: str, sha256: str) -> None:
    """Raise :class:`Refused` unless an approval of this kind and hash is in force; a damaged file approves nothing."""
    try:
        if (kind, sha256) in in_force(settings.state, settings.federation, settings.approvals):
            return
    except ConfigError:
        pass  # `ecgfed site check` names the line
    if kind == "study":
        raise _unknown(sha256)
    code = RefusalCode.CODE_NOT_APPROVED if kind == "code" else RefusalCode.ENVELOPE_NOT_APPROVED
    raise Refused(code, f"this {kind} is not approved", value=sha256, remedy=f"ecgfed site approve SITE.yaml {kind}")


def require_approved_code(settings: SiteSettings) -> None:
    """On the network, raise :class:`Refused` unless the code of this process is approved; it is read once."""
    if settings.network is None:
        return
    if not _code:
        _code.append(code_sha256())
    require_approved(settings, "code", _code[0])


def _held(settings: SiteSettings, study_hash: str) -> list[Study]:
    if settings.network is None:
        return readable_studies(settings)
    try:
        return [load_copy(settings.state, study_hash)]
    except ConfigError:
        return []


def _unknown(study_hash: str) -> Refused:
    return Refused(
        RefusalCode.STUDY_NOT_APPROVED,
        "no approved study has this hash",
        value=study_hash,
        remedy="add the study's file to `studies:` in the site file once it is approved; "
        "on the network: ecgfed site approve SITE.yaml STUDY.yaml",
    )
