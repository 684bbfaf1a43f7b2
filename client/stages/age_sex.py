"""age_sex, at the site: sums of errors and of right answers, by group, on people that no training saw."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from client.rows.allowance import spend_score
from client.rows.context import SiteContext
from client.rows.logits import feature_matrix
from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import RefusalCode, Refused
from ecgshared.stages.age_sex import (
    AGE_SUMS,
    GROUPS,
    Config,
    Figures,
    GapSums,
    age_sums,
    clusters,
    in_groups,
    merged_errors,
    models,
    without_ecg,
)
from ecgshared.stats.influence import UNDEFINED, clustered_auc
from ecgshared.wire.protocol import Answer, Evidence, Request

SUMS_SENT = len(AGE_SUMS) + 3
_G = len(GROUPS)


@dataclass(frozen=True)
class _Rows:
    """ECGs of one split; each shape = (n,). Predicted ages in years, probabilities of being male; NaN where unknown."""

    age: Floats
    male: Floats
    patient: Ints
    predicted: tuple[Floats, Floats]
    probability: tuple[Floats, Floats]

    @property
    def right(self) -> tuple[Floats, Floats]:
        """1 where the sex told is the right one, 0 where not, NaN where either is unknown."""
        known = [np.isnan(p) | np.isnan(self.male) for p in self.probability]
        return tuple(  # type: ignore[return-value]
            np.where(k, np.nan, (p >= 0.5) == (self.male == 1)) for k, p in zip(known, self.probability, strict=True)
        )


def calibrate(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``calibrate``: of validation patients; nothing where the step judges no age."""
    spend_score(site, request)
    rows = _rows(site, request, site.data.rows("validation"))
    known = np.isfinite(rows.predicted[0]) & np.isfinite(rows.age)
    age, error, patient = rows.age[known], (rows.predicted[0] - rows.age)[known], rows.patient[known]
    parts = (np.ones_like(age), age, age**2, error, error * age, error**2)
    limits = site.settings.limits
    edge, ecgs, people = merged_errors(np.abs(error), patient, limits.min_patients)
    size = _enough(len(np.unique(patient)), 2 * len(parts), site)
    return Answer(
        GapSums(np.array([float(part.sum()) for part in parts]), edge, ecgs),
        {"sums": Evidence(np.array(size)), "edge": Evidence(people), "ecgs": Evidence(people)},
    )


def judge(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``judge``: of lockbox patients."""
    spend_score(site, request)
    at = site.data.rows("lockbox")
    rows = _rows(site, request, at)
    groups = _admitted(site, at, in_groups(rows.age, rows.male))
    age, age_clusters = np.full((_G, len(AGE_SUMS)), np.nan), np.full((_G, 3), np.nan)
    sex, sex_clusters = np.full((_G, 3), np.nan), np.full((_G, 3), np.nan)
    auc, men, patients = np.full((_G, 4), np.nan), np.full(_G, np.nan), np.full((_G, 2), np.nan)
    told = np.zeros((_G, 2), dtype=np.int64)
    error, right = rows.predicted[0] - rows.age, rows.right[0]
    for g, inside in enumerate(groups):
        mine = inside & np.isfinite(error)
        if mine.any():
            age[g] = age_sums(rows.predicted[0][mine], rows.age[mine])
            age_clusters[g] = clusters(np.abs(error[mine]), rows.patient[mine])
        mine_sex = inside & np.isfinite(right)
        if mine_sex.any():
            male, probability, people = rows.male[mine_sex], rows.probability[0][mine_sex], rows.patient[mine_sex]
            sex[g] = [mine_sex.sum(), right[mine_sex].sum(), male.sum()]
            sex_clusters[g] = clusters(right[mine_sex], people)
            men[g] = probability.mean()
            both = 0 < male.sum() < len(male)
            auc[g] = (clustered_auc(probability, male, people) if both else UNDEFINED).as_array()
        told[g] = len(np.unique(rows.patient[mine])), _of_sex(rows, mine_sex, site, both_sexes=GROUPS[g][-3:] != "men")
        patients[g] = len(np.unique(rows.patient[mine])), len(np.unique(rows.patient[mine_sex]))
    enough = np.where(told >= _least(site, 2 * SUMS_SENT), told, 0)
    whole = groups[0]
    mean_age, men_share = without_ecg(_config(site), request.arrays)
    guessed = np.abs(mean_age - rows.age), np.where(np.isnan(rows.male), np.nan, (men_share >= 0.5) == (rows.male == 1))
    if math.isnan(men_share):
        guessed = guessed[0], np.full(len(rows.age), np.nan)
    other = np.abs(rows.predicted[1] - rows.age), rows.right[1]
    difference, of_difference = _differences(rows, other, whole)
    chance, of_chance = _differences(rows, guessed, whole)
    return Answer(
        Figures(age, age_clusters, sex, sex_clusters, men, auc, difference, chance, patients),
        {
            "age_sums": Evidence(enough[:, 0]),
            "age_clusters": Evidence(enough[:, 0]),
            "sex_sums": Evidence(enough[:, 1]),
            "sex_clusters": Evidence(enough[:, 1]),
            "predicted_men": Evidence(told[:, 1]),
            "auc": Evidence(told[:, 1]),
            "difference": Evidence(np.where(of_difference >= _least(site, 10), of_difference, 0)),
            "chance": Evidence(np.where(enough[0] > 0, of_chance, 0)),
            "patients": Evidence(told),
        },
    )


PHASES = {"calibrate": calibrate, "judge": judge}


def _differences(rows: _Rows, other: tuple[Floats, Floats], whole: Bools) -> tuple[Floats, Ints]:
    """Paired sums of absolute errors and of right answers, this model's less others', over ECGs that have both."""
    found, patients = np.full((2, 5), np.nan), np.zeros(2, dtype=np.int64)
    pairs = np.abs(rows.predicted[0] - rows.age) - other[0], rows.right[0] - other[1]
    for i, value in enumerate(pairs):
        both = whole & np.isfinite(value)
        if both.any():
            found[i] = [both.sum(), value[both].sum(), *clusters(value[both], rows.patient[both])]
            patients[i] = len(np.unique(rows.patient[both]))
    return found, patients


def _of_sex(rows: _Rows, mine: Bools, site: SiteContext, *, both_sexes: bool) -> int:
    """Return the patients behind figures of sex; 0 where one sex is told of by too few (their number would show)."""
    patient, male = rows.patient[mine], rows.male[mine]
    if both_sexes:
        fewer = min(len(np.unique(patient[male == sex])) for sex in (0, 1))
        if fewer < site.settings.limits.min_events:
            return 0
    return len(np.unique(patient))


def _admitted(site: SiteContext, at: Ints, groups: Bools) -> Bools:
    """Return the groups of which it may be told: enough patients, and none that differs from another by a few."""
    cells = np.zeros((_G, len(site.data)), dtype=np.bool_)
    cells[:, at] = groups
    names = [f"{site.step.id}, {name}" for name in GROUPS]
    least = site.settings.limits.min_patients
    large = np.array([len(np.unique(site.data.patient[cell])) >= least for cell in cells])
    if site.settings.limits.withhold_nothing:
        return groups
    admitted = np.zeros(_G, dtype=np.bool_)
    admitted[large] = site.cells.admit(
        f"age_sex {site.step.id}",
        site.data,
        cells[large],
        [name for name, big in zip(names, large, strict=True) if big],
    )
    # What a partition leaves out is the whole less its parts: it must be nobody, or enough.
    for part in (slice(1, 3), slice(3, _G)):
        order = sorted(range(part.start, _G if part.stop is None else part.stop), key=lambda g: int(groups[g].sum()))
        while admitted[part].any():
            rest = groups[0] & ~groups[part][admitted[part]].any(axis=0)
            left = len(np.unique(site.data.patient[at[rest]]))
            if left == 0 or left >= least:
                break
            smallest = next(g for g in order if admitted[g])
            admitted[smallest] = False
    return np.asarray(groups & admitted[:, None])


def _least(site: SiteContext, numbers: int) -> int:
    return 1 if site.settings.limits.withhold_nothing else max(site.settings.limits.min_patients, numbers)


def _enough(patients: int, numbers: int, site: SiteContext) -> int:
    return patients if patients >= _least(site, numbers) else 0


def _config(site: SiteContext) -> Config:
    if not isinstance(site.step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step judges neither age nor sex", value=site.step.stage)
    return site.step


def _rows(site: SiteContext, request: Request, at: Ints) -> _Rows:
    step = _config(site)

    def told(name: str | None) -> Floats:
        if name is None or not len(at):
            return np.full(len(at), np.nan)
        return feature_matrix(site, (name,), request.arrays, at)[:, 0]

    (age, sex), (other_age, other_sex) = models(step)
    return _Rows(
        age=site.data.age[at].astype(np.float64),
        male=site.data.male[at].astype(np.float64),
        patient=site.data.patient[at],
        predicted=(told(age), told(other_age)),
        probability=(expit(told(sex)), expit(told(other_sex))),
    )
