"""Whether a request is one that a study holds for this site, and that the site's own policy lets be asked that way."""

from __future__ import annotations

import re

from client.site.settings import WEIGHTS_POLICY, SiteSettings
from ecgshared.errors import RefusalCode, Refused
from ecgshared.study.registry import shared_room
from ecgshared.study.secure import secure_sum_in_use, summed_phases
from ecgshared.study.study import Study
from ecgshared.wire.protocol import Request, StepConfig, Weights, field_kinds, payload_type

_RUN_NAME = re.compile(r"^[A-Za-z0-9_.-]{1,80}$")


def checked_stage(settings: SiteSettings, study: Study, request: Request) -> str:
    """Return the stage of the request's step; refuse what the study does not hold for this site."""
    if not _RUN_NAME.match(request.run) or request.round < 0:
        raise Refused(RefusalCode.BAD_REQUEST, "a run name or round out of range")
    steps = {step.id: step for step in study.steps}
    if request.step not in steps:
        raise Refused(RefusalCode.UNKNOWN_STEP, "the study has no such step", value=request.step)
    step = steps[request.step]
    if settings.site not in study.members(step):
        raise Refused(RefusalCode.NOT_A_MEMBER, f"step {step.id!r} is not for site {settings.site!r}")
    if settings.design == "case_control" and settings.site not in study.sites.case_control and step.stage != "describe":
        raise Refused(
            RefusalCode.CASE_CONTROL, "the study takes this site for a cohort; it must stand under sites.case_control"
        )
    if step.frozen is not None:
        raise Refused(RefusalCode.BAD_REQUEST, f"step {step.id!r} is imported: no site is asked about it")
    shared_room(step.stage)
    if payload_type(step.stage, request.phase) is None:
        raise Refused(RefusalCode.BAD_REQUEST, f"stage {step.stage!r} has no such phase", value=request.phase)
    _require_way(settings, study, step, request.phase)
    _require_protected(settings, study, step, request.phase)
    return step.stage


def _require_protected(settings: SiteSettings, study: Study, step: StepConfig, phase: str) -> None:
    """Refuse weights, and figures about training patients, that leave otherwise than the site's policy says."""
    if getattr(step, "privacy", None) is not None:
        return
    asked, masked, _ = phase.partition("+")
    declared = payload_type(step.stage, asked)
    if declared is not None and any(isinstance(kind, Weights) for _, kind in field_kinds(declared).values()):
        policy = settings.weights_policy
        if policy == "private" or (policy == "secure_sum" and not masked):
            raise Refused(
                RefusalCode.PRIVACY_REQUIRED,
                "plain weights do not leave this site",
                where="privacy.weights",
                value=policy,
                allowed=WEIGHTS_POLICY[policy],
            )
    trained_on = settings.site in study.sites.train and "train" in step.reads_splits
    if trained_on and step.stage not in ("describe", "train") and settings.privacy.statistics == "refused":
        raise Refused(RefusalCode.PRIVACY_REQUIRED, "no figure about training patients leaves this site but by noise")


def _require_way(settings: SiteSettings, study: Study, step: StepConfig, phase: str) -> None:
    """Refuse to send readable what is to be added under masks, or under masks what is not."""
    in_use = secure_sum_in_use(study, step)
    if "+" in phase:
        if not in_use:
            raise Refused(RefusalCode.BAD_REQUEST, "the study adds nothing under masks in this step", value=phase)
    elif in_use and summed_phases(step.stage) and phase not in summed_phases(step.stage):
        raise Refused(RefusalCode.SECURE_SUM_REQUIRED, "the study tells this of all hospitals together", value=phase)
    elif phase in summed_phases(step.stage) and (in_use or settings.secure_sums.policy == "required"):
        why = "the study adds this under masks" if in_use else "this site adds this under masks only"
        raise Refused(RefusalCode.SECURE_SUM_REQUIRED, f"{why}: it does not leave by itself", value=phase)
