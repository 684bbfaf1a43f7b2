"""Removing a person from everything the site keeps of its own: caches, their indices, and future cohorts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from client.approval.register import study_path
from client.cache.signals import forget_everywhere, holds
from client.cohort.identities import Near, is_damaged, normal_id
from client.cohort.link import assign_splits
from client.cohort.optout import read_opt_outs, remember_forgotten
from client.cohort.table import read_cohort_table
from client.ingest.register import ledger_exists, opened_ledger
from client.operator.releases import read_releases
from client.site.keys import SiteKeys, load_keys
from client.site.settings import SiteSettings
from ecgshared.errors import CohortError, EcgFedError
from ecgshared.service.files import private_folder
from ecgshared.study.study import Study, load_study
from ecgshared.wire.protocol import SPLITS

_SHOWN = 20


@dataclass(frozen=True)
class Person:
    """Whom an id means at this site.

    Attributes
    ----------
    name : the id in its normal form.
    rows : rows of the table that name it; None where the table cannot be read.
    near : other ids of the table that differ from it only in case, leading zeros, blanks or dashes.
    kept : recordings of the person in the site's caches.
    known_before : the person had opted out already.
    """

    name: str
    rows: int | None
    near: tuple[str, ...]
    kept: int
    known_before: bool


@dataclass(frozen=True)
class Answers:
    """Answers the person may have been part of: at most ``at_most`` of ``of``, and in how many ``runs``."""

    at_most: int
    of: int
    runs: int


@dataclass(frozen=True)
class Forgotten:
    """What was done: ECGs removed from how many caches, and whether the person was on the list before."""

    ecgs: int
    caches: int
    known_before: bool


def find_person(settings: SiteSettings, patient_id: str) -> Person:
    """Return whom an id means at this site.

    Raises
    ------
    CohortError : nobody here has it, with the ids near it; or it is damaged.
    """
    name = normal_id(patient_id)
    if not name:
        raise CohortError("give a patient id")
    if is_damaged(name):
        raise CohortError(
            "a spreadsheet rounded this number: it may be several people's", value=name, allowed="an id in full"
        )
    private_folder(settings.state)
    pseudonym = load_keys(settings).patient(name)
    rows: int | None = None
    near: tuple[str, ...] = ()
    why = ""
    try:
        table = read_cohort_table(settings)
        ids = table.ids.get("patient_id")
        counts = {} if ids is None else dict(zip(ids.values, _counts(ids.codes, len(ids.values)), strict=True))
        present = [other for other, count in counts.items() if other and count]
        rows, near = counts.get(name, 0), tuple(Near(present).to(name))
    except EcgFedError as error:
        why = str(error)
    kept = holds(settings.state / "cache", pseudonym)
    opt_outs = read_opt_outs(settings)
    before = name in opt_outs.listed or pseudonym in opt_outs.forgotten
    if not rows and not kept and not before:
        raise _unknown(settings, name, near, why)
    return Person(name, rows, near, kept, before)


def forget_patient(settings: SiteSettings, patient_id: str, *, waiting: Callable[[], None] | None = None) -> Forgotten:
    """Put a person on the opt-out list, then overwrite and drop their signals in every cache.

    The list keeps pseudonyms, no id. It is written first: cut short, the next opening of the site ends the work.
    ``waiting`` is called about once a second while another process of this site holds a cache.

    Raises
    ------
    CohortError : nobody here has this id.
    """
    person = find_person(settings, patient_id)
    keys = load_keys(settings)
    pseudonym = keys.patient(person.name)
    if pseudonym not in read_opt_outs(settings).forgotten:
        remember_forgotten(settings, keys, person.name)
    removed = forget_everywhere(settings.state / "cache", [pseudonym], waiting=waiting)
    if ledger_exists(settings.state):
        with opened_ledger(settings.state) as ledger:
            ledger.forget([pseudonym])
    return Forgotten(sum(removed), sum(count > 0 for count in removed), person.known_before)


def answers_with(settings: SiteSettings, person: Person) -> Answers:
    """Count the answers that left this site and may rest on a person's ECGs: an upper bound, from the site's own log.

    The log names study, step and run of each answer and nobody in it. Left out are answers sent a second time, and
    those of steps that never see the person's split (drawn once, by the site's key). Who was left out by a study's
    filters, or came into the table later, is still counted: the log cannot tell.
    """
    keys = load_keys(settings)
    sent = [line for line in read_releases(settings.state) if not line.get("replayed") and "tampered" not in line]
    studies: dict[str, Study | None] = {}
    runs, at_most = set(), 0
    for line in sent:
        sha256 = str(line.get("study", ""))
        if sha256 not in studies:
            studies[sha256] = _study(settings, sha256)
        if _may_see(settings, keys, person.name, studies[sha256], str(line.get("step", ""))):
            at_most += 1
            runs.add(line.get("run"))
    return Answers(at_most, len(sent), len(runs))


def in_words(settings: SiteSettings, person: Person, answers: Answers) -> list[str]:
    """Return what forgetting this person does and what it cannot undo, as lines for the terminal."""
    rows = "the table cannot be read" if person.rows is None else f"{person.rows} row(s) of {settings.table.path.name}"
    lines = [f"{person.name}: {rows}, {person.kept} ECG(s) in the caches of {settings.site}"]
    if person.near:
        listed = ", ".join(person.near[:_SHOWN]) + (" and more" if len(person.near) > _SHOWN else "")
        fate = "are left out from now on too" if settings.exclude_near else "stay in; forget them too if they are one"
        lines.append(f"near this id: {listed}; they {fate}")
    share = f"at most {answers.at_most} of {answers.of} answers, in {answers.runs} run(s)"
    lines.append("will be done: the ECGs are overwritten; the person is in no cohort from now on")
    if answers.at_most:
        lines += [
            "cannot be undone:",
            "  models that were trained with these ECGs keep what they learnt",
            f"  answers already given stay given: the person was part of {share}",
            "  (an upper bound: the log of releases names nobody; `ecgfed site releases` lists them)",
            "  who holds those answers and the next ones can learn of the person from the difference: figures",
            "  that were told of groups with the person are closed for the same groups without",
        ]
    elif answers.of:
        lines.append(f"nothing that cannot be undone: the person was part of none of the {answers.of} answers given")
    else:
        lines.append("nothing that cannot be undone: no answer has left this site")
    lines.append("not touched: the site's own table and recordings; remove the person there as your rules ask")
    return lines


def _may_see(settings: SiteSettings, keys: SiteKeys, name: str, study: Study | None, step_id: str) -> bool:
    """Tell whether a step may have seen the person; where the study is not at hand any more, it may."""
    step = None if study is None else next((step for step in study.steps if step.id == step_id), None)
    if study is None or step is None or settings.site not in study.sites.train:
        return True
    split = SPLITS[int(assign_splits(keys.split_positions([name]), study.split)[0])]
    return split != "lockbox" or step.opens_lockbox


def _study(settings: SiteSettings, sha256: str) -> Study | None:
    for path in (study_path(settings.state, sha256), *settings.studies):
        try:
            study = load_study(path)
        except EcgFedError:
            continue  # gone or changed: the person may have been in it
        if study.sha256 == sha256:
            return study
    return None


def _counts(codes: object, n: int) -> list[int]:
    import numpy as np

    counts: list[int] = np.bincount(np.asarray(codes), minlength=n).tolist()
    return counts


def _unknown(settings: SiteSettings, name: str, near: tuple[str, ...], why: str) -> CohortError:
    if why:
        return CohortError(
            f"nobody in the caches has this id, and the table cannot be read to look there:\n{why}",
            value=name,
            remedy="mend the table first: ecgfed site check SITE.yaml",
        )
    listed = ", ".join(near[:_SHOWN]) + (f" and {len(near) - _SHOWN} more" if len(near) > _SHOWN else "")
    return CohortError(
        "nobody has this id, in the table or in the caches; nothing was done",
        where=settings.table.path,
        value=name,
        allowed=f"an id as the table writes it; near this one: {listed}" if near else "an id as the table writes it",
        remedy="to keep out a person who is not in the table yet, add the id to the list that `exclude:` names",
    )
