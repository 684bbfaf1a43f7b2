"""A run goes on without sites that left for good: the coordinator signs the change, the sites that stay approve it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ecgshared.errors import ConfigError, RunError
from ecgshared.service.files import now
from ecgshared.study.amendment import SIGNED_AS, Amendment
from ecgshared.study.secure import LEAST_SITES, secure_sum_in_use
from ecgshared.study.study import Study
from ecgshared.wire.protocol import StepConfig
from server.coordinator import trail
from server.coordinator.home import Home
from server.coordinator.submission import GOING
from server.rounds.run_folder import RunFolder


@dataclass(frozen=True)
class Amended:
    """What :func:`amend_run` did.

    Attributes
    ----------
    file : to be sent to the sites that stay. left_out : steps that no site is left for.
    """

    file: Path
    amendment: Amendment
    stay: tuple[str, ...]
    left_out: tuple[str, ...]


def amend_run(home: Home, name: str, without: list[str], why: str) -> Amended:
    """Write and sign the next amendment of a run, which then waits for the approval of the sites that stay.

    Raises
    ------
    ConfigError : sites that are none of the run's, or nobody would be left.
    RunError : the run goes on, or is done; or a secure sum could not be opened by those that stay.
    """
    folder = home.run_folder(name)
    run = RunFolder.reopen(folder)
    try:
        status = run.info["status"]
        if status in GOING or status == "done":
            remedy = "" if status == "done" else f"ecgfed coordinator stop {name}"
            raise RunError(f"run {name} is {status}: only one that is stopped, paused or failed can be amended",
                           remedy=remedy)  # fmt: skip
        before = run.study
        gone = _gone(before, without, folder)
        unsigned = Amendment(
            amends=before.name,
            study_sha256=before.sha256,
            run=run.info["run"],
            number=len(run.info.get("amendments", [])) + 1,
            without=gone,
            why=why,
            at=now(),
        )
        after = unsigned.apply(before)
        unfinished = [step for step in after.steps if run.artefact(step.id) is None]
        _require_sums(after, unfinished)
        amendment = _signed(home, unsigned)
        trail.note(home.path, "amend", run=name, without=", ".join(gone), amendment=amendment.sha256, why=why)
        file = run.amend(amendment)
        run.note("amended", f"without {', '.join(gone)}{': ' + why if why else ''}; the other sites must approve it")
    finally:
        run.close()
    left_out = tuple(step.id for step in unfinished if not after.members(step))
    return Amended(file, amendment, tuple(s for s in after.sites.all if s not in gone), left_out)


def _gone(study: Study, without: list[str], folder: Path) -> tuple[str, ...]:
    stay = [site for site in study.sites.all if site not in study.gone]
    if strangers := sorted(set(without) - set(stay)):
        raise ConfigError(
            "not a site of this run, or it is out already",
            where=folder,
            value=", ".join(strangers),
            allowed=", ".join(stay),
        )
    if not set(stay) - set(without):
        raise ConfigError("nobody would be left", where=folder, value=", ".join(sorted(without)))
    return tuple(sorted({*study.gone, *without}))


def _require_sums(study: Study, steps: list[StepConfig]) -> None:
    """Refuse an amendment under which the sites that stay could open no sum of a step."""
    for step in steps:
        stay = len(study.members(step))
        if not stay or study.secure_sum is None or not secure_sum_in_use(study, step):
            continue
        least = max(study.secure_sum.least(stay), LEAST_SITES)
        if stay < least:
            raise RunError(
                f"step {step.id!r} adds under masks: {stay} site(s) would be left, and a sum is of at least {least}",
                remedy="this run cannot go on without them; a new study, without the step or with other sites, can",
            )


def _signed(home: Home, amendment: Amendment) -> Amendment:
    """Sign with the key of the coordinator's server: it is at hand also where the authority's is not."""
    file = home.path / "tls" / "server.key"
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
        certificate = (home.path / "tls" / "server.crt").read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise RunError(
            f"the server's key or certificate cannot be read ({type(error).__name__})",
            where=file,
            remedy="ecgfed coordinator renew",
        ) from None
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = base64.b64encode(key.sign(SIGNED_AS + amendment.content, ec.ECDSA(hashes.SHA384()))).decode()
    return amendment.model_copy(update={"signature": signature, "certificate": certificate})
