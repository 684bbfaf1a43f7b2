"""One frozen model, judged over and over: seeds draw other splits, and other patients of a known population.

A study trains once, on part of the patients. Of those it never saw (at a training site the rest, at the others all)
each seed draws the judged ones in two ways. ``records``: the hospital's own, split by the key that the seed makes; what
is printed is compared with the same figure of the same ECGs, computed without any limit by scikit-learn and
statsmodels. ``population``: as many patients drawn with replacement, so that the hospital is a sample of a population
in which every figure is known; what is printed is compared with the population's. The first asks whether limits, bins
and sums change a figure; the second is what a 95% interval claims. Real handlers, real gate, default limits.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import yaml
from federated_stages import Federation
from sklearn.metrics import average_precision_score, roc_auc_score
from statsmodels.api import Logit, add_constant

from client.cohort.link import assign_splits
from client.dataset.data import SiteData
from client.dataset.opening import open_site
from client.dataset.remembered import Remembered
from client.rows.context import SiteContext
from client.rows.logits import head_logits
from client.site.keys import load_keys
from client.site.settings import SiteSettings, load_site
from ecgshared.arrays import Floats, Ints
from ecgshared.errors import RunError, StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.train import Config as TrainConfig
from ecgshared.study.study import Study, load_study
from server.rounds.frozen import frozen_bytes, read_frozen, take_up
from server.rounds.run_folder import RunFolder
from server.rounds.step_context import Artefact
from simulations.federation.run import simulate

Drawn = Literal["records", "population"]
TRAINED_ON = {"train": 0.3, "validation": 0.1, "lockbox": 0.6}
JUDGED_ON = {"train": 1 / 3, "validation": 1 / 3, "lockbox": 1 / 3}
"""Of the untouched 0.6: a fifth of everybody calibrates and a fifth is judged, as in the shipped studies."""


@dataclass(frozen=True)
class Pool:
    """A site's patients that no training saw, and what the frozen net says of their ECGs; signals are row numbers."""

    data: SiteData
    logits: Floats

    def drawn(self, rng: np.random.Generator) -> SiteData:
        """As many patients, drawn with replacement; one drawn twice is two patients."""
        of_patient = np.split(np.argsort(self.data.patient, kind="stable"), np.cumsum(np.bincount(self.data.patient)))
        picked = [of_patient[i] for i in rng.integers(0, self.data.n_patients, self.data.n_patients)]
        patient = np.repeat(np.arange(len(picked)), [len(rows) for rows in picked])
        return replace(self.data.subset(np.concatenate(picked)), patient=patient)


class Known(Remembered):
    """Answers with the logits computed before; the rows it is asked of are the last of the arrays."""

    def __init__(self, pool: Pool, data: SiteData) -> None:
        super().__init__()
        self._logits = pool.logits[np.ravel(np.asarray(data.signals))]

    def get(
        self, kind: str, names: Iterable[str], arrays: Iterable[np.ndarray], compute: Callable[[], Floats], *, most: int
    ) -> Floats:
        assert kind == "logits"
        return self._logits[list(arrays)[-1]]


@dataclass
class Judging(Federation):
    """A federation whose net is known by what it said of the pools."""

    pools: Mapping[str, Pool] | None = None

    def context(self, step_id: str, site: str) -> SiteContext:
        assert self.pools is not None
        found = super().context(step_id, site)
        return replace(found, memory=Known(self.pools[site], self.data[site]))


@dataclass(frozen=True)
class FrozenStudy:
    """A study whose model was trained once, and the pools it is judged on."""

    study: Study
    model: Artefact[Any]
    pools: Mapping[str, Pool]
    head: str

    @classmethod
    def trained(cls, study_file: Path, site_files: list[Path], head: str, folder: Path) -> FrozenStudy:
        """Train with :data:`TRAINED_ON`, export, import, and pool whom no training saw.

        Parameters
        ----------
        site_files : with the studies they approve replaced by the trained one, below ``folder``.
        """
        content = yaml.safe_load(study_file.read_text(encoding="utf-8"))
        train = next(step for step in content["steps"] if step["stage"] == "train")
        first = [step for step in content["steps"] if step["stage"] in ("describe", "train")]
        training = folder / "training.yaml"
        training.write_text(yaml.safe_dump({**content, "split": TRAINED_ON, "steps": first}), encoding="utf-8")
        files = [_approving(path, training, folder) for path in site_files]
        run = RunFolder.reopen(simulate(training, files, folder / "run"))
        try:
            artefact = run.artefact(train["id"])
            assert artefact is not None
            (folder / "net.ecgfed").write_bytes(frozen_bytes(artefact, run.info, run.study))
        finally:
            run.close()
        judged = cls._judging(content, train, folder)
        model = take_up(judged.step(train["id"]), judged, read_frozen(folder / "net.ecgfed", _sha256(folder)))
        opened = {load_site(path).site: open_site(load_site(path), load_study(training)) for path in files}
        pools = {site: _pool(site, data, judged, model) for site, data in opened.items()}
        return cls(judged, model, pools, head)

    @staticmethod
    def _judging(content: dict[str, Any], train: dict[str, Any], folder: Path) -> Study:
        imported = {key: train[key] for key in ("id", "stage", "heads", "model")}
        imported["import"] = {"file": "net.ecgfed", "sha256": _sha256(folder)}
        steps = [step for step in content["steps"] if step["stage"] not in ("describe", "train")]
        path = folder / "judging.yaml"
        path.write_text(yaml.safe_dump({**content, "split": JUDGED_ON, "steps": [imported, *steps]}), encoding="utf-8")
        return load_study(path)

    def judge(self, seed: int, drawn: Drawn) -> Judging | None:
        """Calibrate, fix the threshold and evaluate under a seed's split; None where a step can give nothing."""
        data = {}
        for i, (site, pool) in enumerate(sorted(self.pools.items())):
            own = pool.data if drawn == "records" else pool.drawn(np.random.default_rng([seed, i]))
            data[site] = replace(own, split=self._split(seed, site, own))
        done = Judging(self.study, data, DisclosureLimits(), pools=self.pools)
        done.artefacts[self.model.step] = replace(self.model, result=self.model.result.model_dump(mode="json"))
        try:
            done.run()
        except (RunError, StatisticsError):
            return None
        return done

    def _split(self, seed: int, site: str, data: SiteData) -> Any:
        if site in self.study.sites.zero_shot:
            return np.full(len(data), 2, dtype=np.int8)
        with TemporaryDirectory() as state:
            settings = {"site": site, "records": {"folder": "."}, "table": {"path": "t.csv", "columns": {"file": "f"}}}
            keys = load_keys(SiteSettings.model_validate({**settings, "state": state, "seed": seed}))
        places = keys.split_positions(map(str, range(data.n_patients)))
        return assign_splits(places, self.study.split)[data.patient]


def _sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "net.ecgfed").read_bytes()).hexdigest()


def _approving(path: Path, study: Path, folder: Path) -> Path:
    """A copy of a site file with absolute paths, a state of its own, and this study alone."""
    settings, content = load_site(path), yaml.safe_load(path.read_text(encoding="utf-8"))
    content["records"]["folder"], content["table"]["path"] = str(settings.records.folder), str(settings.table.path)
    state = folder / "state" / settings.site
    copy = folder / f"{settings.site}.yaml"
    copy.write_text(yaml.safe_dump(content | {"state": str(state), "studies": [str(study)], "seed": 1}))
    return copy


def _pool(site: str, data: SiteData, study: Study, model: Artefact[Any]) -> Pool:
    untouched = data.subset(data.rows("lockbox"))
    rows = np.arange(len(untouched))
    config = study.step(model.step)
    assert isinstance(config, TrainConfig)
    arrays = {f"{model.step}.{name}": array for name, array in model.arrays.items()}
    logits = head_logits(Federation(study, {site: untouched}).context(model.step, site), config, arrays, rows)
    return Pool(replace(untouched, signals=rows.reshape(-1, 1, 1)), logits)


@dataclass(frozen=True)
class Rows:
    """ECGs with risk (calibrated) and outcome; shape = (n,) each."""

    site: Ints
    risk: Floats
    y: Ints


def rows_of(frozen: FrozenStudy, done: Judging | None, sites: tuple[str, ...], coef: Floats) -> Rows:
    """The judged ECGs of these sites (their pools where ``done`` is None), with the risk under ``coef``."""
    config = frozen.study.step(frozen.model.step)
    assert isinstance(config, TrainConfig)
    column = config.heads.index(frozen.head)
    found = []
    for i, site in enumerate(sites):
        data = frozen.pools[site].data if done is None else done.data[site]
        rows = np.arange(len(data)) if done is None else data.rows("lockbox")
        y = data.labels[rows, data.heads.index(frozen.head)]
        logit = frozen.pools[site].logits[np.ravel(np.asarray(data.signals))[rows], column]
        keep = np.isfinite(y)
        found.append(np.column_stack([np.full(len(rows), i), coef[0] + coef[1] * logit, y])[keep])
    table = np.concatenate(found)
    return Rows(table[:, 0].astype(int), 1 / (1 + np.exp(-table[:, 1])), table[:, 2].astype(int))


def ungated(rows: Rows, cut: float | None) -> dict[str, float]:
    """The figures of these ECGs by scikit-learn and statsmodels; NaN where undefined."""
    y, risk = rows.y, rows.risk
    within = [(roc_auc_score(y[own], risk[own]), y[own].sum() * (1 - y[own]).sum()) for own in _two_sided(rows)]
    if not within:
        return {}
    logit = np.log(risk / (1 - risk))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            slope = float(Logit(y, add_constant(logit)).fit(disp=0).params[1])
        except Exception:  # perfect separation, under several names
            slope = np.nan
    found = {
        "AUC": float(roc_auc_score(y, risk)),
        "AUC within sites": float(np.average(np.transpose(within)[0], weights=np.transpose(within)[1])),
        "average precision": float(average_precision_score(y, risk)),
        "calibration slope": slope,
        "expected / observed": float(risk.sum() / y.sum()),
        "Brier score": float(np.mean((risk - y) ** 2)),
    }
    if cut is not None and (risk >= cut).any():
        found |= {"PPV at the cut": float(y[risk >= cut].mean()), "sensitivity": float((risk >= cut)[y == 1].mean())}
    return found


def _two_sided(rows: Rows) -> Iterator[Any]:
    for site in np.unique(rows.site):
        own = rows.site == site
        if len(np.unique(rows.y[own])) == 2:
            yield own


PRINTED = {
    "AUC": "auc",
    "AUC within sites": "auc_within_sites",
    "average precision": "average_precision",
    "calibration slope": "calibration_slope",
    "expected / observed": "expected_over_observed",
}


def printed(head: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Value and interval of each figure of one result; an AUC's interval and its bounds together."""
    found = {name: head[key] for name, key in PRINTED.items() if head.get(key)}
    at = head.get("threshold") or {}
    found |= {name: at[key] for name, key in (("PPV at the cut", "ppv"), ("sensitivity", "sensitivity")) if at.get(key)}
    return {
        name: tuple(np.nan if e.get(k) is None else e[k] for k in ("value", "low", "high"))
        for name, e in found.items()
        if e.get("value") is not None
    }


@dataclass
class Tally:
    """One figure over seeds: how often it was printed, had an interval, and held; and how far off it was."""

    printed: int = 0
    with_interval: int = 0
    held: int = 0
    furthest: float = 0.0

    def count(self, value: float, low: float, high: float, truth: float) -> None:
        self.printed += 1
        self.furthest = max(self.furthest, abs(value - truth))
        if np.isfinite(low):
            self.with_interval += 1
            self.held += bool(low - 1e-9 <= truth <= high + 1e-9)


def tallied(frozen: FrozenStudy, seeds: Iterable[int], drawn: Drawn) -> tuple[dict[tuple[str, str], Tally], int]:
    """Judge under every seed; return tallies by (whose, figure), and the seeds at which a step could give nothing."""
    tallies: dict[tuple[str, str], Tally] = {}
    nothing = 0
    for seed in seeds:
        done = frozen.judge(seed, drawn)
        if done is None:
            nothing += 1
            continue
        steps = {step.stage: step.id for step in frozen.study.steps}
        result = done.artefacts[steps["evaluate"]].result
        coef = done.artefacts[steps["calibrate"]].arrays["coef"]
        of = {("one site", s): (found["heads"][frozen.head], (s,)) for s, found in result["sites"].items()}
        of |= {("pooled", g): (by[frozen.head], tuple(by[frozen.head]["sites"])) for g, by in result["pooled"].items()}
        for (whose, _), (head, sites) in of.items():
            if not sites:
                continue
            behind = done if drawn == "records" else None
            truth = ungated(rows_of(frozen, behind, sites, coef), result["threshold"])
            at = head.get("threshold") or {}
            if len(told := tuple(at.get("sites", ()))) not in (0, len(sites)):
                # At the threshold fewer may tell.
                fewer = ungated(rows_of(frozen, behind, told, coef), result["threshold"])
                truth |= {name: fewer.get(name, np.nan) for name in ("PPV at the cut", "sensitivity")}
            for name, figure in printed(head).items():
                if np.isfinite(truth.get(name, np.nan)):
                    tallies.setdefault((whose, name), Tally()).count(*figure, truth[name])
    return tallies, nothing
