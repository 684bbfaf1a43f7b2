"""The methods of a study in prose, made from its file: what an author may take as a first draft."""

from __future__ import annotations

from collections.abc import Sequence

from ecgshared.stages.calibrate import Config as Calibrate
from ecgshared.stages.evaluate import Config as Evaluate
from ecgshared.stages.survival import Config as Survival
from ecgshared.stages.threshold import Config as Threshold
from ecgshared.stages.train import Config as Train
from ecgshared.study.endpoints import BinaryEndpoint, ContinuousEndpoint, TimeToEventEndpoint
from ecgshared.study.score import calibrate_inputs
from ecgshared.study.study import Study
from ecgshared.wire.protocol import StepConfig
from server.report.labels import Labels, counted, window_words
from server.report.results import RunInfo
from server.report.summary import eligibility_words


def methods(study: Study, info: RunInfo, labels: Labels) -> list[tuple[str, str]]:
    """Return (heading, paragraph) in the order of a paper; nothing that the study does not say."""
    found = [
        ("Data and design", _design(study, labels)),
        ("Participants", _participants(study)),
        ("ECGs", _signals(study)),
        ("Outcomes", _outcomes(study, labels)),
    ]
    steps = [text for step in study.steps if (text := _step(step, study, labels))]
    if steps:
        found.append(("Models and analysis", " ".join(steps)))
    if study.used_stages & {"evaluate", "survival_evaluate", "threshold"}:
        found.append(("Statistics", _STATISTICS))
    found.append(("Federation and privacy", _federation(study)))
    software = ", ".join(f"{name} {version}" for name, version in sorted(info.versions.items()) if version)
    if software:
        found.append(("Software", f"{software}. The study file has the SHA-256 {info.study_sha256}."))
    return found


_STATISTICS = (
    "Every estimate has a 95% interval with the patient as the unit where a hospital knows its patients, so "
    "that several "
    "ECGs of one patient do not count as independent. Estimates over hospitals are computed from sums that each "
    "of them "
    "released; where a hospital could count a score in intervals only, bounds say what that leaves open. "
    "Hospitals "
    "that trained and hospitals that did not are never put together. A number of too small a group was withheld by the "
    "hospital and is shown as withheld; nothing was imputed for it."
)


def _design(study: Study, labels: Labels) -> str:
    train, other = (_join([labels.site(s) for s in names]) for names in (study.sites.train, study.sites.zero_shot))
    text = (
        f"Federated analysis of {len(study.sites.all)} hospital{'s' * (len(study.sites.all) > 1)}; no recording and no "
        f"row of a table left any of them. Hospitals in the development: {train}"
    )
    text += f"; for external evaluation only: {other}." if other else "; none was held back for external evaluation."
    if study.sites.case_control:
        series = _join([labels.site(name) for name in study.sites.case_control])
        text += f" Case-control series, judged by ranks alone and never pooled with others: {series}."
    split = study.split
    shares = [("training", split.train), ("validation", split.validation), ("the lockbox", split.lockbox)]
    told = _join([f"{100 * share:g}% for {name}" for name, share in shares if share])
    return (
        f"{text} Patients of the development were split by a key of each hospital's own ({told}), all ECGs of a "
        "patient on the "
        "same side; the lockbox was opened for the final evaluation alone."
    )


def _participants(study: Study) -> str:
    words = eligibility_words(study.eligibility)
    return f"Eligible were {words}. Rules were applied in the order of the flow of exclusions."


def _signals(study: Study) -> str:
    given = study.input
    band = (
        "no filter"
        if given.band_hz is None
        else f"a zero-phase band-pass of {given.band_hz[0]:g} to {given.band_hz[1]:g} Hz"
    )
    mains = f", a notch at {given.mains_hz} Hz" if given.mains_hz else ""
    baseline = "" if given.baseline == "none" else f", each lead less its {given.baseline}"
    return (
        f"Twelve-lead ECGs were checked for quality, brought to {given.fs_hz:g} Hz ({given.resample}) and "
        f"{given.seconds:g} "
        f"seconds, with {band}{mains}{baseline}."
    )


def _outcomes(study: Study, labels: Labels) -> str:
    binary, timed, numbers = [], [], []
    for name, e in study.endpoints.items():
        words = labels.endpoint(name)
        if isinstance(e, BinaryEndpoint):
            binary.append(f"{words} ({e.column})")
        elif isinstance(e, ContinuousEndpoint):
            numbers.append(f"{words} ({e.range[0]:g} to {e.range[1]:g}{' ' if e.unit else ''}{e.unit})")
        elif words.startswith(labels.event(*e.events)):
            timed.append(words)
        else:
            timed.append(f"{words} ({labels.event(*e.events)} {window_words(e)})")
    text = f"From labels of the hospitals' tables: {_join(binary)}." if binary else ""
    text += f"{' ' if text else ''}Counted from the ECG on: {_join(timed)}." if timed else ""
    text += f"{' ' if text else ''}As numbers, elsewhere missing: {_join(numbers)}." if numbers else ""
    if not timed:
        return text
    text += (
        " An ECG whose horizon ended before the patient was last known to be free of the event was left out of that "
        "outcome."
        if study.censoring != "paper_faithful"
        else " Censoring: paper faithful."
    )
    if study.censoring == "ipcw":
        text += (
            " Beside that, everybody was judged for as long as they were followed, weighted by the inverse of the "
            "chance to be followed (Kaplan-Meier of censoring at each hospital)."
        )
    if any(isinstance(e, TimeToEventEndpoint) and "scd" in e.events for e in study.endpoints.values()):
        text += (
            " Sudden cardiac death: a cardiac or ill-defined cause (ICD-10), outside hospital or within 24 hours of "
            "admission."
        )
    return text + (" A defibrillator implanted after the ECG ended the view." if study.censor_at_defibrillator else "")


def _step(step: StepConfig, study: Study, labels: Labels) -> str:
    if step.frozen is not None:
        return (
            f"{_upper(labels.step(step.id))} was taken as it is from a file that another study exported (SHA-256 "
            f"{step.frozen.sha256}); no hospital was asked for it."
        )
    text, whom = _stage(step, study, labels), labels.whom(step.id)
    return f"{text} This step is about {whom}." if text and whom else text


def _stage(step: StepConfig, study: Study, labels: Labels) -> str:
    if isinstance(step, Train):
        return _trained(step, labels)
    if isinstance(step, Calibrate):
        inputs = _join([labels.column(name) for name in calibrate_inputs(step, study)])
        penalty = f", ridge penalty {step.ridge:g}" if step.ridge else ""
        return (
            f"{_upper(labels.step(step.id))}: logistic regression of {labels.endpoint(step.target)} on "
            f"{inputs}, fitted "
            f"to the {step.split} patients of all training hospitals by Newton's method{penalty}."
        )
    if isinstance(step, Threshold):
        rule = (
            f"the largest group whose event rate exceeds {step.min_rate:g} at its lower "
            f"{100 * step.confidence:g}% limit"
            if step.min_rate is not None
            else ""
        )
        share = f"the top {100 * step.top_share:g}% of ECGs" if step.top_share is not None else ""
        return f"{_upper(labels.step(step.id))}: the cut-off takes {', else '.join(w for w in (rule, share) if w)}."
    if isinstance(step, Survival):
        models = _join([f"{m.name} ({_join([labels.column(n) for n in m.inputs])})" for m in step.models])
        return (
            f"{_upper(labels.step(step.id))}: Cox models of {labels.event(step.event)}, {step.mode}, "
            f"{step.ties.capitalize()} "
            f"ties: {models}; horizon {step.horizon_years:g} years."
        )
    if isinstance(step, Evaluate):
        members = study.members(step)
        every = set(members) == set(study.sites.all)
        sites = "all hospitals" if every else _join([labels.site(name) for name in members])
        return f"{_upper(labels.step(step.id))}: the frozen score was evaluated at {sites}."
    return ""


_FROZEN = {
    "all": "",
    "head": ", of which the head alone was trained on",
    "last": ", of which the last layer alone was trained on",
    "lora": ", of which the last layer and low-rank adapters of the others alone were trained on",
}


def _trained(step: Train, labels: Labels) -> str:
    seen = {"median_beat": "median beats", "single_beat": "single beats"}.get(step.model.sees, "the ECG")
    what = seen if step.model.own_objective else _join([labels.endpoint(h) for h in step.heads])
    local = step.local
    work = counted(local.steps, "step") if local.steps is not None else counted(local.epochs or 1, "epoch")
    kept = "the weights of the lowest validation loss" if step.keep == "best" else "the last weights"
    if step.early_stopping is not None:
        kept = f"training ended early where validation did not improve; {kept}"
    start = step.start_from
    began = f" It began with the weights of {labels.step(start.step)}{_FROZEN[start.trainable]}." if start else ""
    inputs = _join([{"age": "age", "male": "sex"}.get(name, labels.column(name)) for name in step.model.side_inputs])
    rounds = f"{'up to ' if step.early_stopping else ''}{step.rounds} rounds"
    private = ""
    if step.privacy is not None:
        p = step.privacy
        private = (
            f" Training was differentially private with the patient as the unit (epsilon {p.epsilon:g}, delta "
            f"{p.delta:g}, "
            f"gradients clipped at {p.max_grad_norm:g})."
        )
    return (
        f"{_upper(labels.step(step.id))}: a {step.model.name} learned {what} from {seen if step.heads else 'the ECG'}"
        f"{f' with {inputs}' if inputs else ''}, in {rounds} of {step.strategy.name} ({work} at "
        "each hospital a "
        f"round, {step.optimiser.name}, learning rate {step.optimiser.lr:g}); {kept} were kept.{began}{private}"
    )


def _federation(study: Study) -> str:
    quorum = "every hospital" if study.federation.quorum == "all" else counted(study.federation.quorum, "hospital")
    return (
        f"A round counted when {quorum} had answered. Hospitals released model weights and statistics only, "
        "each through a "
        "gate that withholds what stands for too few patients or events by the hospital's own limits; what each step "
        "released is listed in this report."
    )


def _join(words: Sequence[str]) -> str:
    words = list(words)
    return " and ".join(w for w in (", ".join(words[:-1]), words[-1]) if w) if words else ""


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
