"""Changes of membership that this site approved: a run goes on without sites that left only if those that stay say so.

``amendments/<sha256>.yaml`` below the state are the site's own copies; the approvals name them. Of one run the newest
that is approved holds, and no other: a request under another one, or under none, is refused.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from client.approval.people import Person
from client.approval.register import Approval, Kind, in_force, load_copy, record
from client.site.settings import SiteSettings, network_of
from ecgshared.errors import ConfigError, RefusalCode, Refused
from ecgshared.service.files import private_folder, write_atomically
from ecgshared.study.amendment import SIGNED_AS, Amendment, load_amendment
from ecgshared.study.secure import LEAST_SITES, secure_sum_in_use
from ecgshared.study.study import Study

KIND: Kind = "amendment"


def amended_study(settings: SiteSettings, study: Study, run: str, amendment: str) -> Study:
    """Return an approved study as a run goes on with it.

    Raises
    ------
    Refused : AMENDMENT_NOT_APPROVED where the request is under another membership than the site approved last.
    """
    if settings.network is None and not amendment:
        return study
    newest = _newest(settings, study.sha256, run)
    if amendment != ("" if newest is None else newest.sha256):
        raise Refused(
            RefusalCode.AMENDMENT_NOT_APPROVED,
            "the run goes on with another membership than this site approved",
            value=amendment or "none",
            allowed="none" if newest is None else newest.sha256,
            remedy="ecgfed site show SITE.yaml AMENDMENT.yaml; ecgfed site approve SITE.yaml AMENDMENT.yaml",
        )
    return study if newest is None else newest.apply(study)


def check_amendment(settings: SiteSettings, path: Path) -> tuple[Amendment, Study]:
    """Read an amendment; return it with the study it amends, as it was before.

    Raises
    ------
    ConfigError : it is not this coordinator's, or not of an approved study; it takes this site out, or sites of none;
        or it does not follow the last one that was approved for its run.
    """
    found = load_amendment(path)
    _require_signed(settings, found, path)
    held = in_force(settings.state, settings.federation, settings.approvals)
    if ("study", found.study_sha256) not in held:
        raise ConfigError(
            "amends a study that this site has not approved", where=path, value=f"{found.amends}, {found.study_sha256}"
        )
    study = load_copy(settings.state, found.study_sha256)
    if strangers := sorted(set(found.without) - set(study.sites.all)):
        raise ConfigError("takes out sites that the study does not name", where=path, value=", ".join(strangers))
    if settings.site in found.without:
        raise ConfigError("takes this site itself out: there is nothing to approve here", where=path)
    last = _newest(settings, found.study_sha256, found.run, held)
    if last is not None and last.sha256 != found.sha256:
        if found.number <= last.number or not set(last.without) <= set(found.without):
            raise ConfigError(
                "does not follow the last amendment of this run that was approved here: members only become fewer",
                where=path,
                value=f"number {found.number}, without {', '.join(found.without)}",
                allowed=f"a number above {last.number}, without {', '.join(last.without)} and others",
            )
        study = last.apply(study)
    return found, study


def approve_amendment(settings: SiteSettings, amendment: Amendment, person: Person | None) -> None:
    """Keep the site's own copy of a checked amendment, and record its approval."""
    path = _copy(settings.state, amendment.sha256)
    private_folder(path.parent)
    write_atomically(path, amendment.as_yaml(), private=True)
    what = f"{amendment.amends} without {', '.join(amendment.without)}"
    record(settings.state, KIND, amendment.sha256, what, federation=settings.federation, person=person)


def show_amendment(settings: SiteSettings, found: Amendment, before: Study) -> list[str]:
    """Return the lines to be read before an amendment is approved."""
    after = found.apply(before)
    leaving = [site for site in found.without if site not in before.gone]
    stay = [site for site in after.sites.all if site not in after.gone]
    lines = [
        f"amendment {found.number} of run {found.run}",
        f"  study:    {found.amends}, {found.study_sha256}",
        f"  hash:     {found.sha256}",
        f"  leaves:   {', '.join(leaving) or 'nobody who has not left before'}",
        f"  stays:    {', '.join(stay)}",
        *([f"  why:      {found.why}"] if found.why else []),
        f"  signed:   by the coordinator, {found.at}",
        "  The run goes on from its last checkpoint; what was learned with those that leave stays in it.",
        "  The study, its budget and your limits stay as they are. What was told of all before, and of those that stay",
        "  after, differs by the part of who left.",
    ]
    for step in before.steps:
        was, stays = before.members(step), after.members(step)
        if settings.site not in stays or was == stays or step.frozen is not None:
            continue
        line = f"  {step.id}: {len(stays)} of {len(was)} sites"
        if before.secure_sum is not None and secure_sum_in_use(before, step):
            least = max(before.secure_sum.least(len(stays)), LEAST_SITES)
            line += (
                f"; a sum is of at least {least} (it was {before.secure_sum.least(len(was))})"
                if least <= len(stays)
                else f"; REFUSED here: a sum is of at least {least}"
            )
        lines.append(line)
    return lines


def _newest(
    settings: SiteSettings, study: str, run: str, held: dict[tuple[str, str], Approval] | None = None
) -> Amendment | None:
    """Return the amendment of a run that holds; raise :class:`Refused` where what was approved cannot be read."""
    try:
        if held is None:
            held = in_force(settings.state, settings.federation, settings.approvals)
        found = [_load(settings.state, sha256) for kind, sha256 in held if kind == KIND]
    except ConfigError as error:
        raise Refused(RefusalCode.AMENDMENT_NOT_APPROVED, error.what, where=error.where) from None
    of_run = [one for one in found if one.study_sha256 == study and one.run == run]
    return max(of_run, key=lambda one: one.number, default=None)


def _load(state: Path, sha256: str) -> Amendment:
    path = _copy(state, sha256)
    found = load_amendment(path)
    if found.sha256 != sha256:
        raise ConfigError("the site's copy of an amendment was changed since it was approved", where=path)
    return found


def _copy(state: Path, sha256: str) -> Path:
    return state / "amendments" / f"{sha256}.yaml"


def _require_signed(settings: SiteSettings, found: Amendment, path: Path) -> None:
    """Hold an amendment to the coordinator: a server's certificate of the kit's authority, and its signature."""
    try:
        certificate = x509.load_pem_x509_certificate(found.certificate.encode())
        authority = x509.load_pem_x509_certificate(network_of(settings).ca.read_bytes())
        certificate.verify_directly_issued_by(authority)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        now, key = datetime.now(UTC), certificate.public_key()
        if ExtendedKeyUsageOID.SERVER_AUTH not in usage or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError  # a site's certificate signs for that site alone
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise ValueError
        key.verify(
            base64.b64decode(found.signature, validate=True), SIGNED_AS + found.content, ec.ECDSA(hashes.SHA384())
        )
    except (InvalidSignature, ValueError, TypeError, OSError, x509.ExtensionNotFound):
        raise ConfigError(
            "is not signed by this site's coordinator, or its certificate has expired",
            where=path,
            remedy="ask the coordinator for the file as `ecgfed coordinator amend` wrote it",
        ) from None
