"""A study in plain words: what it would run at this site, what would leave at each step, and under which limits.

Nothing here knows a stage: its sentence, its settings and the kinds of its fields are read from the stage itself, so
what an operator is shown is what the egress gate will hold the stage to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from client.approval.register import in_force, load_copy, study_path
from client.site.lockbox import lockbox_openings
from client.site.settings import WEIGHTS_POLICY, SiteSettings
from ecgshared.errors import ConfigError
from ecgshared.study.populations import Population
from ecgshared.study.registry import shared_room
from ecgshared.study.secure import secure_sum_in_use, summed_phases
from ecgshared.study.study import Study, load_study
from ecgshared.wire.protocol import StepConfig, field_kinds, payload_type, phases

_KINDS = {
    "weights": "model weights, one vector",
    "count": "counts of people or ECGs, small groups withheld",
    "statistic": "figures about groups, small groups withheld",
    "sums": "sums over people of groups that are large enough",
    "public": "nothing about people",
    "hidden": "keys, shares and numbers under masks",
}
_TOLD_APART = {"id", "stage", "uses", "sites", "privacy"}


def named_study(settings: SiteSettings, what: str) -> Study:
    """Return the study of a file, or of a hash of which the site holds a copy."""
    if len(what) == 64 and not Path(what).exists():
        if not study_path(settings.state, what).exists():
            raise ConfigError("the site holds no study of this hash", value=what, remedy="give the study's file")
        return load_copy(settings.state, what)
    return load_study(Path(what))


def show_study(settings: SiteSettings, study: Study) -> list[str]:
    """Return the lines to be read before a study is approved."""
    trains, takes_part = settings.site in study.sites.train, settings.site in study.sites.all
    series = settings.site in study.sites.case_control
    role = "trains" if trains else "is only evaluated" if takes_part else "is NOT NAMED by this study"
    role += ", by ranks alone: a case-control series" if series else ""
    lines = [
        f"study {study.name}",
        f"  hash:     {study.sha256}",
        *([f"  about:    {study.about}"] if study.about else []),
        f"  trains:   {', '.join(study.sites.train) or 'nobody; what is judged was trained elsewhere'}",
        f"  judged:   {', '.join(study.sites.zero_shot) or 'no further site'}",
        f"  here:     {settings.site} {role}; {_approval(settings, study)}",
        *(
            ["  DESIGN:   by the site file its table is a case-control series; but for describe nothing is answered"]
            if takes_part and not series and settings.design == "case_control"
            else []
        ),
        f"  ECGs:     {study.input.seconds:g} s at {study.input.fs_hz:g} Hz, 12 leads",
        f"  predicts: {', '.join(study.endpoints)}",
    ]
    if trains:
        split = study.split
        shares = f"{split.train:.0%} train, {split.validation:.0%} validate, {split.lockbox:.0%} stay in the lockbox"
        lines.append(f"  patients: {shares}")
    elif takes_part:
        lines.append("  patients: all are used to judge, none to train")
    if study.covariates:
        lines.append(f"  columns:  age, sex, {', '.join(study.covariates)}")
    for name, column in study.columns.items():
        mapped = "mapped" if name in settings.table.declared else "NOT mapped"
        words = f", {column.label}" if column.label else ""
        lines.append(f"  column:   {name}: {column.kind}, {column.allowed}{words}; {mapped} here")
    for name, population in study.populations.items():
        lines.append(f"  group:    {name}: {population.label or 'no words for it'}; {_where(population)}")
    for number, step in enumerate(study.steps, start=1):
        lines += ["", *_step(settings, study, step, number)]
    return [*lines, "", *_limits(settings, study), *_lockbox(settings, study), *_renamed(settings, study)]


def _approval(settings: SiteSettings, study: Study) -> str:
    if settings.network is None:
        return "the site file has no `network:` section; `studies:` there are its approvals"
    try:
        found = in_force(settings.state, settings.federation, settings.approvals).get(("study", study.sha256))
    except ConfigError as error:
        return f"nothing is approved: {error.what}"
    return "not approved" if found is None else f"approved on {found.at} by {found.by}"


def _step(settings: SiteSettings, study: Study, step: StepConfig, number: int) -> list[str]:
    room, members = shared_room(step.stage), study.members(step)
    sentence = (room.__doc__ or step.stage).strip().split("\n")[0]
    lines = [f"{number}. {step.id} - {sentence}", f"     sites: {', '.join(members)}"]
    if settings.site not in members:
        return [*lines, "     this site takes no part in it: nothing leaves"]
    if step.frozen is not None:
        return [*lines, f"     imported: {_value(step.frozen)}", "     no site is asked about it: nothing leaves"]
    for name in type(step).model_fields:
        value = getattr(step, name)
        if name not in _TOLD_APART and value not in (None, (), {}, ""):
            lines.append(f"     {name}: {_value(value)}")
    if "privacy" in type(step).model_fields:
        private = getattr(step, "privacy", None)
        without = "none: the weights that leave are those of plain training"
        lines.append(f"     differential privacy: {without if private is None else _value(private)}")
    lines += _secure(settings, study, step)
    for phase in phases(step.stage):
        hidden = secure_sum_in_use(study, step) and phase in summed_phases(step.stage)
        how = ", ONLY added under masks to other hospitals'" if hidden else ""
        lines.append(f"     leaves when asked for {phase!r}{how}:")
        lines += [f"       {text}" for text in _leaves(step.stage, phase)]
    return lines


def _secure(settings: SiteSettings, study: Study, step: StepConfig) -> list[str]:
    """Say whether sums and weights are added under masks, and where site and study do not agree."""
    policy, can = settings.secure_sums, summed_phases(step.stage)
    if not can:
        return []
    if not secure_sum_in_use(study, step) or study.secure_sum is None:
        if policy.policy == "required":
            return [
                "     secure sum: NONE in this study, and this site requires one: it will refuse "
                f"{', '.join(can)} (secure-sum-required)"
            ]
        return ["     secure sum: none; the coordinator sees this site's own sums and weights"]
    n = len(study.members(step))
    whose = (
        "all sites together" if policy.limits_of == "pooled" and "pooled" in can.values() else "this site's own group"
    )
    return [
        f"     secure sum: of at least {study.secure_sum.least(n)} of {n} sites; the coordinator sees the sum alone, "
        f"limits hold for {whose}"
    ]


def _where(population: Population) -> str:
    filters = [f"{column} {_value(condition)}" for column, condition in population.where.items()]
    return ", ".join([*filters, *(["the patient's last ECG"] if population.most_recent_only else [])])


def _leaves(stage: str, phase: str) -> list[str]:
    declared = payload_type(stage, phase)
    assert declared is not None
    by_kind: dict[str, list[str]] = {}
    for name, (_, kind) in field_kinds(declared).items():
        by_kind.setdefault(type(kind).__name__.lower(), []).append(name.replace("_", " "))
    return [f"{_KINDS[kind]}: {', '.join(by_kind[kind])}" for kind in _KINDS if kind in by_kind]


def _limits(settings: SiteSettings, study: Study) -> list[str]:
    limits, cap, policy = settings.limits, settings.privacy, settings.weights_policy
    must = "private training only" if cap.required else "training without differential privacy is permitted"
    period = "" if cap.total_days is None else f" in {cap.total_days:g} days"
    scores = f"{limits.lockbox_scores} different scores on a lockbox group, {limits.validation_scores} on another"
    return [
        "limits of this site, whatever a study asks:",
        f"  withheld: groups of fewer than {limits.min_patients} patients, or {limits.min_events} with the event",
        "  groups:   a group that differs by fewer from one told of before, in any study, is refused",
        f"  scores:   {scores}, over all studies",
        f"  privacy:  {must}; a study may spend epsilon {cap.max_epsilon:g} at delta {cap.max_delta:g},"
        f" all studies together {cap.most_in_all:g}{period}",
        f"  weights:  {policy.replace('_', ' ')}: {WEIGHTS_POLICY[policy]}",
        f"  figures:  about training patients: {_STATISTICS[cap.statistics]}",
        *_plain_steps(settings, study),
        "  every answer is in state/releases.jsonl before it goes",
    ]


_STATISTICS = {
    "group-limited": "for groups of enough people; no epsilon covers them",
    "refused": "none but the counts that training needs",
}


def _plain_steps(settings: SiteSettings, study: Study) -> list[str]:
    """Say in true words what the plain weights of a study can tell; nothing where none would leave."""
    plain = [
        step.id
        for step in study.steps
        if step.stage == "train"
        and step.frozen is None
        and settings.site in study.members(step)
        and getattr(step, "privacy", None) is None
    ]
    if not plain:
        return []
    if settings.weights_policy == "private":
        return [f"  REFUSED:  {', '.join(plain)}: plain training, and this site sends private weights only"]
    if settings.weights_policy == "secure_sum":
        return [f"  REFUSED:  {', '.join(plain)}: plain training, unless its weights are added under masks"]
    return [
        f"  PLAIN WEIGHTS of {', '.join(plain)} LEAVE: no size of a group protects them. Who sends crafted weights, or",
        "            sees a round's, can get ECGs, ages and labels of single training patients; only differential",
        "            privacy, or a sum under masks, keeps that from the coordinator",
    ]


def _renamed(settings: SiteSettings, study: Study) -> list[str]:
    """Warn of approved studies that ask the same under another name, seed or description."""
    lines = []
    try:
        approved = [
            key[1] for key in in_force(settings.state, settings.federation, settings.approvals) if key[0] == "study"
        ]
        others = [load_copy(settings.state, sha256) for sha256 in approved if sha256 != study.sha256]
    except ConfigError:
        return []  # told under `here`
    for other in others:
        if (other.steps, other.endpoints) == (study.steps, study.endpoints):
            what = "asks what this one asks, under another name, seed or description"
            lines.append(f"LOOK: the approved study {other.name} ({other.sha256[:12]}) {what}; their costs add up")
    return lines


def _lockbox(settings: SiteSettings, study: Study) -> list[str]:
    opening = [step.id for step in study.steps if step.opens_lockbox and settings.site in study.members(step)]
    if settings.site not in study.sites.train:
        return ["lockbox: this site trains nothing, so it has none"]
    if not opening:
        return ["lockbox: stays closed"]
    lines = [f"LOCKBOX: opened by {', '.join(opening)}; recorded, and not to be used to choose a model afterwards"]
    before = lockbox_openings(settings.state)
    if before:
        names = ", ".join(dict.fromkeys(o.name or o.study[:12] for o in before))
        lines.append(
            f"  it was opened before by {len({o.by for o in before})} run(s): {names}; see `ecgfed site lockbox`"
        )
    return lines


def _value(value: Any) -> str:
    if isinstance(value, BaseModel):
        set_fields = {name: getattr(value, name) for name in type(value).model_fields}
        return ", ".join(f"{name} {_value(v)}" for name, v in set_fields.items() if v not in (None, (), {}, ""))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(v)}" for key, v in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(_value(v) for v in value)
    return (
        "yes" if value is True else "no" if value is False else f"{value:g}" if isinstance(value, float) else str(value)
    )
