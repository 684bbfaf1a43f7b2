"""The annex of a data protection impact assessment for one study at one site, made of what the software enforces.

Everything in it is read from the study, the site file and the stages; what only people can say (the legal basis, who is
responsible, whether the purpose is worth it) is asked in brackets. It holds no patient's value and no count.
"""

from __future__ import annotations

import time

from client.site.at_rest import encryption_of
from client.site.settings import WEIGHTS_POLICY, SiteSettings
from ecgshared.privacy.attacked import PROTECTIONS, as_share, concerning
from ecgshared.study.registry import shared_room
from ecgshared.study.secure import secure_sum_in_use
from ecgshared.study.study import Study
from ecgshared.wire.protocol import StepConfig, phases


def annex(settings: SiteSettings, study: Study) -> str:
    """Return the annex as Markdown."""
    parts = [
        _head(settings, study),
        _purpose(study),
        _data(settings, study),
        _recipients(settings, study),
        _leaving(settings, study),
        _rules(settings, study),
        _retention(settings),
        _risks(settings, study),
        _rights(),
        _to_be_said(),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _head(settings: SiteSettings, study: Study) -> list[str]:
    return [
        f"# Annex to the data protection impact assessment: {study.name} at {settings.site}",
        "",
        f"Made {time.strftime('%Y-%m-%d', time.gmtime())} by `ecgfed site annex` from the study with the hash "
        f"`{study.sha256}` and this site's file. Another study, or another site file, needs another annex. Sentences "
        "in [brackets] are for people to complete.",
    ]


def _purpose(study: Study) -> list[str]:
    endpoints = [f"- {name}: {endpoint.label or endpoint.kind}" for name, endpoint in study.endpoints.items()]
    return [
        "## 1. Purpose",
        "",
        study.about or "[The study says nothing about its purpose.]",
        "",
        *(["What is predicted or counted:", "", *endpoints] if endpoints else ["No outcome of a person is used."]),
        "",
        "[Legal basis, ethics approval, and why the purpose cannot be reached with less.]",
    ]


def _data(settings: SiteSettings, study: Study) -> list[str]:
    table = settings.table
    split = study.split
    role = (
        f"{split.train:.0%} of the patients train, {split.validation:.0%} validate, {split.lockbox:.0%} are kept apart "
        "until the end"
        if settings.site in study.sites.train
        else "patients are used to judge, none to train"
    )
    columns = sorted({*table.columns, *table.labels, *(name for name in table.declared if name in study.columns)})
    return [
        "## 2. Data that are processed here",
        "",
        f"- recordings: 12-lead ECGs of the archive, {study.input.seconds:g} s at {study.input.fs_hz:g} Hz",
        f"- of the cohort table: {', '.join(columns)}",
        f"- use: {role}",
        f"- left out: {_eligibility(study)}",
        "- who opted out: "
        + ("the site's list is applied at every request" if settings.exclude else "NO LIST IS NAMED"),
        "- identifiers are replaced by keyed pseudonyms inside the site; neither leaves. Waveforms, beats and scores "
        "of single ECGs are no kind of message and cannot be sent.",
    ]


def _eligibility(study: Study) -> str:
    given = study.eligibility.model_dump(exclude_defaults=True)
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in given.items()) or "nobody by the study"


def _recipients(settings: SiteSettings, study: Study) -> list[str]:
    others = [site for site in study.sites.all if site != settings.site]
    where = "a simulation on this machine" if settings.network is None else settings.network.coordinator
    return [
        "## 3. Recipients",
        "",
        f"- the coordinator ({where}): receives what section 4 names, and nothing else can be sent",
        f"- other hospitals of the study ({', '.join(others) or 'none'}): receive trained models and pooled figures, "
        "never this site's own answers",
        "- readers of the report: figures of this site by name where they met the limits",
        "",
        "[Countries of the recipients, and on what ground data go there.]",
    ]


def _leaving(settings: SiteSettings, study: Study) -> list[str]:
    lines = ["## 4. What leaves, and why it is acceptable", ""]
    for step in study.steps:
        if settings.site not in study.members(step) or step.frozen is not None:
            continue
        room = shared_room(step.stage)
        leaves: dict[str, str] = getattr(room, "LEAVES", {})
        lines += [f"### {step.id} ({step.stage})", ""]
        lines += [
            f"- {phase}: {leaves.get(phase, 'see the message list of the software')}" for phase in phases(step.stage)
        ]
        lines += ["", f"Protected by: {_protection(study, step)}", ""]
    return lines[:-1]


def _protection(study: Study, step: StepConfig) -> str:
    private = getattr(step, "privacy", None)
    words = str(getattr(shared_room(step.stage), "PROTECTED", "the site's smallest groups"))
    if private is not None:
        spent = f"epsilon {private.epsilon:g}, delta {private.delta:g}"
        words = f"differential privacy, the patient as the unit: {spent}. {words}"
    if secure_sum_in_use(study, step):
        words += " Added under masks to other hospitals' numbers: the coordinator sees the sum alone."
    return words


def _rules(settings: SiteSettings, study: Study) -> list[str]:
    limits, cap = settings.limits, settings.privacy
    return [
        "## 5. Rules of this site, whatever a study asks",
        "",
        f"- no figure of fewer than {limits.min_patients} patients, or of fewer than {limits.min_events} with (or "
        "without) the event; groups are remembered over all studies, and one from which fewer could be solved for is "
        "refused",
        f"- at most {limits.lockbox_scores} different scores about one lockbox group, over all studies",
        f"- weights: {WEIGHTS_POLICY[settings.weights_policy]}",
        f"- privacy loss: at most epsilon {cap.max_epsilon:g} at delta {cap.max_delta:g} for this study, "
        f"{cap.most_in_all:g} for all studies together"
        + (", for ever" if cap.total_days is None else f", in {cap.total_days:g} days")
        + ("; without differential privacy nothing is trained" if cap.required else ""),
        "- only the study, the software and the envelope that an operator approved by hash are run; an approval can be "
        "withdrawn at any time",
    ]


def _retention(settings: SiteSettings) -> list[str]:
    return [
        "## 6. Retention",
        "",
        f"Below `{settings.state.name}` of this site, readable by its owner alone:",
        "",
        "- answers on their way: the last three rounds of a step, and no longer than "
        f"{settings.retention.outbox_days:g} days; of older ones that they were given, not what",
        "- preprocessed ECGs (cache): until the recording, the patient's consent or the site file changes",
        "- logs of what left, of groups, of privacy spent and of lockbox openings: for ever, since the protections "
        "rest on them; they hold codes, counts and keyed pseudonyms",
        f"- volume: {encryption_of(settings.state)}, as the kernel says when this was written; the software itself "
        "encrypts nothing"
        + (", and answers from an encrypted volume only" if settings.retention.encrypted == "required" else "")
        + " [if not known: say how]",
        "",
        "[How long the trained models and the report are kept, and by whom.]",
    ]


def _risks(settings: SiteSettings, study: Study) -> list[str]:
    stages = {s.stage for s in study.steps if settings.site in study.members(s) and s.frozen is None}
    found = concerning(stages)
    epsilons = [p.epsilon for s in study.steps if (p := getattr(s, "privacy", None)) is not None]
    here = "epsilon" if epsilons else {"plain": "groups"}.get(settings.weights_policy, "masks")
    nearest = f"`epsilon {min((8, 3, 1), key=lambda e: abs(e - max(epsilons))):g}`" if epsilons else f"`{here}`"
    lines = [
        "## 7. Residual risks, with measured figures",
        "",
        "Attacks on a made hospital, by `ecgfed simulate attack`: what each gets, as a share of what it tries for. The "
        f"column nearest to this study at this site is {nearest}.",
        "",
        "| attack | " + " | ".join(PROTECTIONS) + " | share of |",
        "| --- |" + " --- |" * (len(PROTECTIONS) + 1),
        *(
            f"| {one.attack} | " + " | ".join(as_share(one.shares.get(p)) for p in PROTECTIONS) + f" | {one.measure} |"
            for one in found
        ),
        "",
        *(f"- `{name}`: {words}" for name, words in PROTECTIONS.items()),
        "",
        "What stays open whatever is set: a sum over a group says something of each member; released weights say who "
        "was trained on as far as the last rows tell, and only differential privacy bounds it; an administrator of the "
        "hospital's machine sees all that is on it; who holds a stolen disk that is not encrypted reads the cache.",
    ]
    if settings.weights_policy == "plain" and "train" in stages and not epsilons:
        lines += ["", f"**This site sends {WEIGHTS_POLICY['plain']}.**"]
    return lines


def _rights() -> list[str]:
    return [
        "## 8. Rights of the persons concerned",
        "",
        "- withdrawal: `ecgfed site forget` takes a person out of cache and indices, and refuses what a difference "
        "would tell; models that were trained before are not untrained",
        "- information and access: `ecgfed site releases` lists what left and when; no answer names a person",
        "- objection to single studies: the opt-out list, applied at the next request",
    ]


def _to_be_said() -> list[str]:
    return [
        "## 9. Decision",
        "",
        "[Necessity and proportionality; advice of the data protection officer; accepted by, on.]",
    ]
