"""From one request about an approved study to the bytes that may leave: open, compute, gate, keep, log."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from client.approval.amendments import amended_study
from client.approval.asked import checked_stage
from client.approval.required import require_approved, require_approved_code
from client.dataset.cohorts import Cohorts
from client.dataset.data import SiteData
from client.dataset.remembered import Remembered
from client.egress.audit import log_event, record_lockbox_opening
from client.egress.gate import Release, log_release, release
from client.egress.ledger import Ledger
from client.egress.memory import Asked, GroupMemory, Keys
from client.egress.outbox import Outbox
from client.egress.questions import Questions
from client.egress.secure_sum import Own, SecureSite
from client.ingest.reading import Progress
from client.rows.asked_scores import sent_scores
from client.rows.context import SiteContext
from client.rows.groups import GROUP, closed_in_study, groups_of, here_of, keys_of, planned
from client.rows.told import Told
from client.site.at_rest import encryption_of
from client.site.current import SiteFile
from client.site.keys import load_keys
from client.site.settings import SiteSettings
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.summed import Summand, summand_of
from ecgshared.study.registry import room, shared_room
from ecgshared.study.secure import secure_sum_in_use, summed_phases
from ecgshared.study.study import Study
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Answer, Request, payload_type

_ATTEMPTS = 3

MadeT = TypeVar("MadeT")


class Site:
    """One site as a process serves it: its file as it is now, and its cohorts as they are now.

    Parameters
    ----------
    path : the site file.
    held : a cohort in memory that stands in the place of the files the site file names (the pooled twin).
    """

    def __init__(self, path: Path, held: SiteData | None = None) -> None:
        self._file, self._cohorts = SiteFile(path), Cohorts(held)
        self._groups: dict[Path, GroupMemory] = {}
        self._questions: dict[Path, Questions] = {}

    @property
    def last_settings(self) -> SiteSettings | None:
        """The settings last read; for who the site is and where it logs, where its file cannot be read now."""
        return self._file.last

    def settings(self) -> SiteSettings:
        """Return the settings as the site file says now.

        Raises
        ------
        ConfigError : it cannot be used, or says what counts only after a restart.
        """
        return self._file.now()

    def cohort(self, study: Study, *, progress: Progress | None = None) -> SiteData:
        """Return the site's cohort under a study as its files are now; recordings not yet in the cache are read."""
        return self._cohorts.under(self.settings(), study, progress=progress).data

    def context(self, study: Study, request: Request, *, ledger: Ledger | None) -> SiteContext:
        """Hand out what the step may see of the site's cohort under this study.

        A training site's lockbox is handed only to a step that opens it, and the opening is recorded. A site that is
        only evaluated has no lockbox to guard: all its patients stand there.
        """
        settings = self.settings()
        step, cohort = study.step(request.step), self._cohorts.under(settings, study)
        trains = settings.site in study.sites.train
        whole, spoken = self._may_be_spoken_of(settings, study, request, cohort.data)
        data = whole
        if trains and step.opens_lockbox:
            record_lockbox_opening(
                settings, study_hash=study.sha256, step=step.id, run=request.run, study_name=study.name
            )
        elif trains:
            data = data.without_lockbox()
        if closed := closed_in_study(whole, study, step, settings):
            raise Refused(RefusalCode.TOO_FEW, closed)
        if step.population is not None:
            data = data.members(step.population)
        return SiteContext(
            settings=settings,
            study=study,
            step=step,
            data=data,
            state=settings.state / "runs" / request.run,
            run=request.run,
            trains=trains,
            ledger=ledger,
            rng=_generator(settings, study.sha256, step.id, request.phase, str(request.round)),
            # Where somebody waits, row numbers mean other ECGs than in the cohort.
            memory=cohort.memory if whole is cohort.data else Remembered(),
            spoken=spoken,
            present=keys_of(whole),
            told=Told(
                self._memory(settings),
                here_of(cohort.data),
                settings.limits,
                step.stage,
                lambda: planned(whole, study, settings, but=step.id),
            ),
        )

    def count(self, context: SiteContext, request: Request) -> None:
        """Hold a run to the artefacts it sent, and count the score a request asks about, before it is answered.

        Raises
        ------
        Refused : as :class:`client.egress.questions.Questions`.
        """
        limits, study, step = context.settings.limits, context.study, context.step
        sent = [name for name in request.arrays if "." in name]
        if limits.withhold_nothing or not sent:
            return
        questions = self._questions.setdefault(context.settings.state, Questions(context.settings.state))
        questions.bind(request.arrays, study=study.sha256, run=request.run)
        scores = sent_scores(study, step, request.arrays)
        groups = [one.digest for one in context.spoken if one.topic == GROUP and one.size >= one.few]
        if step.stage != "train" and groups:
            most = limits.lockbox_scores if step.opens_lockbox or not context.trains else limits.validation_scores
            for score in scores:
                questions.count(score, groups, most=most, study=study.sha256, step=step.id)

    def remember(self, context: SiteContext, request: Request) -> None:
        """Write down whom an answer speaks of, before it can leave."""
        if context.settings.limits.withhold_nothing:
            return
        told = [*context.spoken, *(context.told.pending if context.told is not None else ())]
        self._memory(context.settings).remember(
            told,
            study=context.study.sha256,
            study_name=context.study.name,
            step=context.step.id,
            run=request.run,
            present=context.present,
        )

    def _memory(self, settings: SiteSettings) -> GroupMemory:
        return self._groups.setdefault(settings.state, GroupMemory(settings.state))

    def _may_be_spoken_of(
        self, settings: SiteSettings, study: Study, request: Request, data: SiteData
    ) -> tuple[SiteData, tuple[Asked, ...]]:
        """Return the cohort and the sets an answer speaks of; who arrived since waits until they are many enough.

        Raises
        ------
        Refused : TOO_FEW where a set differs by a few from what was told before.
        """
        step, here, waiting = study.step(request.step), here_of(data), 0
        if settings.limits.withhold_nothing:
            return data, ()
        memory = self._memory(settings)
        while True:
            spoken = groups_of(
                data,
                study,
                step,
                settings.limits,
                trains=settings.site in study.sites.train,
                phase=request.phase,
                round_number=request.round,
            )
            found = memory.conflict(spoken, here=here)
            if found is None:
                break
            if memory.knows(found.records).any() or found.gone:
                raise Refused(
                    RefusalCode.TOO_FEW,
                    found.in_words(),
                    remedy="ask about the same group as before, or one that differs by more; `ecgfed site show` tells. "
                    "Made patients may begin anew: an empty `state:` folder",
                )
            data, waiting = _without(data, found.records), waiting + len(found.records)
        if waiting:
            log_event(settings.state, "newcomers-wait", step=step.id, phase=request.phase, ecgs=waiting)
        return data, tuple(spoken)

    def is_now(self, context: SiteContext) -> bool:
        """Tell whether a context handed out is still what would be handed out: same settings, same cohort."""
        return self.settings() == context.settings and self._cohorts.is_now(context.settings, context.study)


def _without(data: SiteData, records: Keys) -> SiteData:
    """Return a cohort without some ECGs; of its devices and rates nothing is known then."""
    rows = np.flatnonzero(~np.isin(keys_of(data)[0], records))
    line = ("arrived since, told of when they are more", len(rows), len(np.unique(data.patient[rows])))
    return replace(data.subset(rows), flow=(*data.flow, line), descriptions={})


class Sites:
    """The sites of one process, by their files: one at a hospital, all of them in a simulation.

    Parameters
    ----------
    held : cohorts in memory, by the site file whose cohort they stand for.
    """

    def __init__(self, held: Mapping[Path, SiteData] | None = None) -> None:
        self._held, self._sites = dict(held or {}), dict[Path, Site]()

    def __getitem__(self, path: Path) -> Site:
        if path not in self._sites:
            self._sites[path] = Site(path, self._held.get(path))
        return self._sites[path]

    def __reduce__(self) -> tuple[Callable[[], Sites], tuple[()]]:
        # Ray sends the app to its workers with every message: what a worker has opened stays that worker's.
        return of_this_process, ()


@cache
def of_this_process() -> Sites:
    """Return the sites of the app that Flower loads by name: one holder a process, with nothing opened at first."""
    return Sites()


def answer_bytes(site: Site, study: Study, request: Request) -> bytes:
    """Compute, gate, keep and log one answer; a repeated request gets the kept bytes."""
    settings = site.settings()
    stage = checked_stage(settings, study, request)
    _require_encrypted(settings)
    outbox = Outbox(settings.state / "outbox")
    outbox.forget_old(settings.retention.outbox_days)
    part_of_sum = "+" in request.phase
    known_as, once = _known_as(study, request), part_of_sum or _private(study, request)
    kept = outbox.find(known_as, once=once)
    if kept is None and part_of_sum:
        made = _part_of_sum(site, study, request, stage)
        outbox.keep(request, made)
    elif kept is None:
        ledger = Ledger(settings.state)
        made = computed(site, study, request, stage, ledger, release_of(request, stage))
        # Before it is kept: were the kept answer lost, the same round would be another release, and is another charge.
        ledger.answered()
        outbox.keep(known_as, made, once=once)
    else:
        made = kept
    log_release(settings.state, made.log_line, replayed=kept is not None)
    return made.body


def _require_encrypted(settings: SiteSettings) -> None:
    if settings.retention.encrypted == "required" and (found := encryption_of(settings.state)) != "encrypted":
        raise Refused(
            RefusalCode.DATA_UNAVAILABLE,
            f"this site answers from an encrypted volume only, and whether its state lies on one: {found}",
            where="retention.encrypted",
            remedy="put `state` on a LUKS volume, or write `encrypted: wanted`",
        )


def _private(study: Study, request: Request) -> bool:
    return getattr(study.step(request.step), "privacy", None) is not None


def _known_as(study: Study, request: Request) -> Request:
    """Return a request as the outbox knows it: an amendment asks anew only where an answer hangs on who else is asked.

    What was noised once must not be noised again because somebody left; but a share of a sum's noise is larger among
    fewer sites: the old one is refused there.
    """
    step = study.step(request.step)
    hangs = not step.alike_for_any_members and (secure_sum_in_use(study, step) or not _private(study, request))
    return request if "+" in request.phase or hangs else replace(request, amendment="")


def release_of(request: Request, stage: str) -> Callable[[Answer, SiteSettings], Release]:
    """Return the gate that an answer to this request goes through."""
    return lambda answer, settings: release(answer, request, stage=stage, settings=settings)


def _part_of_sum(site: Site, study: Study, request: Request, stage: str) -> Release:
    """Return one part of a secure sum, see :mod:`client.egress.secure_sum`."""
    settings = site.settings()

    def own(asked: Request) -> Own:
        if not _private(study, asked):
            return computed(
                site, study, asked, stage, Ledger(settings.state), lambda a, now: _own(a, now, study, asked, stage)
            )
        # Noised once, whatever sums it goes into: a sum that failed is begun again with the same weights.
        outbox, ledger = Outbox(settings.state / "outbox"), Ledger(settings.state)
        known_as = _known_as(study, asked)
        kept = outbox.find(known_as, once=True)
        if kept is None:
            kept = computed(site, study, asked, stage, ledger, release_of(asked, stage))
            ledger.answered()
            outbox.keep(known_as, kept)
        return Own(_summand(kept.body, settings, study, asked, stage), None)

    secure = SecureSite(settings, study, study.step(request.step), request.run, own)
    return release(Answer(secure.answer(request), {}), request, stage=stage, settings=settings)


def _own(answer: Answer, settings: SiteSettings, study: Study, asked: Request, stage: str) -> Own:
    """Return what an answer adds to a sum, its group held against the limits here, or with all sites' together."""
    pooled = summed_phases(stage)[asked.phase] == "pooled"
    if pooled and answer.together is None:
        raise Refused(RefusalCode.GATE_CLOSED, "an answer to be added comes without the group behind it")
    if pooled and answer.together is not None and settings.secure_sums.limits_of == "pooled":
        return Own(summand_of(answer.payload, answer.together.untold), answer.together)
    made = release(answer, asked, stage=stage, settings=settings)
    untold = answer.together.untold if answer.together is not None else ()
    return Own(_summand(made.body, settings, study, asked, stage, untold), answer.together if pooled else None)


def _summand(
    body: bytes, settings: SiteSettings, study: Study, asked: Request, stage: str, untold: tuple[str, ...] = ()
) -> Summand:
    """Return what passed the gate as numbers that add up; refuse what the gate withheld."""
    declared = payload_type(stage, asked.phase)
    assert declared is not None
    payload = decode_payload(body, declared, stamp_of(asked, settings.site))
    as_sums = getattr(shared_room(stage), "as_sums", None)
    summand: Summand = summand_of(payload, untold) if as_sums is None else as_sums(payload, asked, study, settings.site)
    if any(np.isnan(array).any() for array in summand.arrays.values()):
        raise Refused(RefusalCode.TOO_FEW, "this site's own group is too small to be added")
    return summand


def computed(
    site: Site,
    study: Study,
    request: Request,
    stage: str,
    ledger: Ledger,
    make: Callable[[Answer, SiteSettings], MadeT],
) -> MadeT:
    """Return what ``make`` makes of an answer from the site's files and limits as they are when it is done.

    Where something changed while it was computed (a patient was forgotten in the middle of a round of training, say),
    what was made is thrown away and made again: it may rest on a recording that was wiped under it.

    Raises
    ------
    Refused : DATA_UNAVAILABLE where they changed each time; what is missing where an approval was withdrawn meanwhile.
    """
    for _ in range(_ATTEMPTS):
        context = site.context(study, request, ledger=ledger)
        site.count(context, request)
        try:
            answer = room("client", stage).PHASES[request.phase](context, request)
            made = make(answer, context.settings)
        except Exception:
            if site.is_now(context):
                raise
        else:
            if site.is_now(context):
                require_still_approved(context.settings, study, request.run)
                site.remember(context, request)
                return made
        log_event(context.settings.state, "made-again", step=request.step, phase=request.phase, round=request.round)
    raise Refused(RefusalCode.DATA_UNAVAILABLE, "the site's files changed each time an answer was computed")


def require_still_approved(settings: SiteSettings, study: Study, run: str) -> None:
    """On the network, raise :class:`Refused` where code, study or membership is approved no more since it was asked."""
    if settings.network is not None:
        require_approved_code(settings)
        require_approved(settings, "study", study.sha256)
        amended_study(settings, study, run, study.amendment)


def _generator(settings: SiteSettings, *names: str) -> np.random.Generator:
    """Return randomness of this site for one request: the same when asked again, never from the study's seed."""
    text = "\0".join(names).encode()
    if settings.seed is None:
        digest = hmac.digest(load_keys(settings).own, b"ecgfed randomness v1\0" + text, "sha256")
    else:
        digest = hashlib.sha256(str(settings.seed).encode() + b"\0" + text).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
