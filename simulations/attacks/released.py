"""Attacks on a finished run: its released nets, and the updates that its hospitals sent, against who was trained on.

Who was trained on is known to whoever has the site files: of a simulation, or of the hospital's own. Members are the
patients of the training split, strangers those of the lockbox, whom the site's key drew from the same people: without a
net they cannot be told apart, so that an AUC above one half is the net's doing. One ECG a patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.dataset.data import SiteData
from client.dataset.opening import open_site
from client.rows.inputs import ModelRows, seen_by
from client.site.settings import SiteSettings, load_site
from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import ConfigError, StatisticsError
from ecgshared.learning.layout import Layout
from ecgshared.learning.losses import objective
from ecgshared.stages.train import Config, describe_step
from ecgshared.stages.train_net import StartingPoint, starting_point
from ecgshared.stats.influence import clustered_auc
from ecgshared.study.endpoints import ContinuousEndpoint
from ecgshared.study.study import Study
from ecgshared.wire.bytes import WireError, decode_payload, stamp_of
from ecgshared.wire.protocol import Request, payload_type
from server.report.tried import Tried, write_tried
from server.rounds.run_folder import RunFolder

MOST = 400
"""Patients of a side that are tried; drawn where there are more."""
_AT_ONCE = 64
_MEASURES = {
    "loss": "membership by the net's loss: AUC, 0.5 is chance",
    "loss less the untrained net's": "membership by how much training lowered the loss: AUC, 0.5 is chance",
    "direction of the first update": "membership by how far the hospital's first update goes down the patient's own "
    "loss: AUC, 0.5 is chance",
    "sex, tried both ways": "sex guessed by the lower loss of members, less that of strangers: 0 is chance",
}


def try_run(run: Path, site_files: list[Path], *, held: Mapping[Path, SiteData] | None = None) -> list[Tried]:
    """Attack every net that hospitals of a run trained; keep what came out in the run's folder, for its report.

    Parameters
    ----------
    held : cohorts in memory, by the site file whose cohort they stand for.

    Raises
    ------
    ConfigError : the run trained nothing, or none of the files is of a hospital that did.
    """
    folder = RunFolder.reopen(run)
    try:
        study = folder.study
        trained = [s for s in study.steps if isinstance(s, Config) and s.frozen is None and folder.artefact(s.id)]
        if not trained:
            raise ConfigError("this run released no net that its hospitals trained", where=run)
        found = []
        for path in site_files:
            settings = load_site(path)
            if settings.site in study.sites.train:
                data = (held or {}).get(path) or open_site(settings, study)
                for step in trained:
                    if settings.site in study.members(step):
                        found += _Released.of(folder, study, step, settings, data).tried()
    finally:
        folder.close()
    if not found:
        raise ConfigError(
            "none of these sites trained in the run", allowed=", ".join(study.sites.train), remedy="name their files"
        )
    write_tried(run, found)
    return found


def sites_beside(run: Path) -> list[Path]:
    """Return the site files that ``ecgfed simulate`` made for a run, in ``sites`` beside it or one folder above.

    Raises
    ------
    ConfigError : there are none.
    """
    for folder in (run, run.parent, run.parent.parent):
        if found := sorted((folder / "sites").glob("*/site.yaml")):
            return found
    raise ConfigError("no site files lie beside this run", where=run, remedy="name them: --site SITE.yaml")


def as_lines(tried: list[Tried]) -> list[str]:
    """Return what came out as a table for a terminal."""
    rows = [("step", "site", "attack", "figure", "95% interval", "members", "strangers")]
    for one in tried:
        interval = "" if one.low is None or one.high is None else f"{one.low:.3f} to {one.high:.3f}"
        figure = one.why if one.value is None else f"{one.value:.3f}"
        rows.append((one.step, one.site, one.attack, figure, interval, str(one.members), str(one.strangers)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    measures = dict.fromkeys(f"{one.attack}: {one.measure}" for one in tried)
    return [
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        *measures,
    ]


@dataclass(frozen=True)
class _Released:
    """One net and one hospital's people: ``rows`` of one ECG a patient, ``member`` whether its net saw the patient."""

    step: Config
    settings: SiteSettings
    study: Study
    run: str
    rows: ModelRows
    member: Bools
    weights: NDArray[Any]
    earlier: dict[str, NDArray[Any]]

    @classmethod
    def of(cls, folder: RunFolder, study: Study, step: Config, settings: SiteSettings, data: SiteData) -> _Released:
        described, artefact = folder.artefact(describe_step(step, study)), folder.artefact(step.id)
        assert described is not None
        assert artefact is not None
        rng, seen = np.random.default_rng(0), seen_by(step.model, data)
        sides = [_one_each(data, data.rows(*splits), step, seen, rng) for splits in (step.on, ("lockbox",))]
        rows = ModelRows(
            data,
            np.concatenate(sides),
            covariates=step.model.side_inputs,
            standardise=described.arrays["standardise"],
            heads=step.heads,
            numbers={h: e for h in step.heads if isinstance(e := study.endpoints[h], ContinuousEndpoint)},
            signals=seen,
            event=step.event,
        )
        member = np.repeat([True, False], [len(side) for side in sides])
        from_step = None if step.start_from is None else folder.artefact(step.start_from.step)
        earlier = {} if from_step is None else {f"{from_step.step}.weights": from_step.arrays["weights"]}
        return cls(step, settings, study, folder.info["run"], rows, member, artefact.arrays["weights"], earlier)

    def tried(self) -> list[Tried]:
        """Run what can be run."""
        if self.step.layout_mode != "full":
            return [self._told("loss", None, "a part of this net stays at the hospital")]
        after, before = self._losses(self._net()), self._losses(self._start().model)
        found = [self._auc("loss", -after), self._auc("loss less the untrained net's", before - after)]
        found.append(self._first_update())
        if "male" in self.step.model.side_inputs:
            found.append(self._sex())
        return found

    def _start(self) -> StartingPoint:
        return starting_point(self.step, self.study, self.earlier)

    def _net(self) -> Any:
        start = self._start()
        layout = start.layout if start.layout.size == self.weights.size else Layout.of(start.model)
        layout.load(start.model, self.weights)
        return start.model

    def _batches(self) -> Iterator[tuple[Ints, Any, Any, Any]]:
        for start in range(0, len(self.rows), _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, len(self.rows)))
            x, beside, y = (torch.as_tensor(np.ascontiguousarray(part)) for part in self.rows.fetch(rows))
            yield rows, x, beside, y

    def _losses(self, model: Any, male: int | None = None) -> Floats:
        """Loss of each ECG, shape = (n,); ``male`` in the place of the sex on record."""
        model.eval()
        dtype = next(model.parameters()).dtype
        found = np.empty(len(self.rows))
        with torch.no_grad():
            for rows, x, beside, y in self._batches():
                if male is not None:
                    beside = beside.clone()
                    beside[:, self.step.model.side_inputs.index("male")] = self._scaled[male]
                found[rows] = objective(model, x.to(dtype), beside.to(dtype), y, _ones(model)).double().numpy()
        return found

    @property
    def _scaled(self) -> Floats:
        """The two values that sex has on the net's scale."""
        j = self.step.model.side_inputs.index("male")
        beside = np.concatenate([batch[2].numpy()[:, j] for batch in self._batches()])
        return np.unique(beside[~np.isnan(beside)])[[0, -1]]

    def _first_update(self) -> Tried:
        """Compare each patient's gradient at the weights of the first round with what the hospital sent after it."""
        name = "direction of the first update"
        start = self._start()
        sent = self._sent(start.layout.flatten(start.model))
        if sent is None:
            return self._told(name, None, "not readable: it left under masks, or the hospital keeps it no more")
        start.model.eval()
        parameters = [p for p in start.model.parameters() if p.requires_grad]
        score = np.empty(len(self.rows))
        moved = start.layout.flatten(start.model) + sent
        there = [p.detach().clone() for p in parameters]
        start.layout.load(start.model, moved)
        direction = [p.detach() - old for p, old in zip(parameters, there, strict=True)]
        start.layout.load(start.model, moved - sent)
        for i in range(len(self.rows)):
            x, beside, y = (torch.as_tensor(np.ascontiguousarray(part)) for part in self.rows.fetch(np.array([i])))
            dtype = parameters[0].dtype
            loss = objective(start.model, x.to(dtype), beside.to(dtype), y, _ones(start.model)).sum()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            pairs = [(g, d) for g, d in zip(gradients, direction, strict=True) if g is not None]
            size = float(torch.sqrt(sum((g * g).sum() for g, _ in pairs)))  # type: ignore[arg-type]
            score[i] = -float(sum((g * d).sum() for g, d in pairs)) / max(size, 1e-12)
        return self._auc(name, score)

    def _sent(self, first: NDArray[Any]) -> NDArray[Any] | None:
        """Return what the hospital's update of round 1 adds to the first weights, where its outbox still tells."""
        declared = payload_type("train", "fit")
        stamp = stamp_of(Request(self.study.sha256, self.run, self.step.id, "fit", 1, {}), self.settings.site)
        for path in sorted((self.settings.state / "outbox").glob(f"*/{self.step.id}/fit-1.answer")):
            line, _, body = path.read_bytes().partition(b"\n")
            try:
                told = decode_payload(body, declared, stamp) if line and declared is not None else None
            except WireError:
                continue
            if told is not None and np.shape(told.update) == first.shape:
                return np.asarray(told.update - first)
        return None

    def _sex(self) -> Tried:
        name, two = "sex, tried both ways", self._scaled
        losses = [self._losses(self._net(), male) for male in (0, 1)]
        truth = np.concatenate(
            [batch[2].numpy()[:, self.step.model.side_inputs.index("male")] for batch in self._batches()]
        )
        known = np.isin(truth, two) & (losses[0] != losses[1])
        right = (losses[1] < losses[0]) == (truth == two[1])
        rates, spread = [], 0.0
        for side in (self.member, ~self.member):
            inside = right[known & side]
            if len(inside) < 2:
                return self._told(name, None, "too few with a known sex")
            rates.append(float(inside.mean()))
            spread += float(inside.var(ddof=1)) / len(inside)
        value, half = rates[0] - rates[1], 1.959964 * spread**0.5
        return self._told(name, (value, value - half, value + half), "")

    def _auc(self, name: str, score: Floats) -> Tried:
        known = np.isfinite(score)
        try:
            found = clustered_auc(score[known], self.member[known].astype(np.int64), np.flatnonzero(known))
        except StatisticsError:
            return self._told(name, None, "members or strangers are lacking")
        return self._told(name, (found.value, found.low, found.high), "")

    def _told(self, name: str, value: tuple[float, float, float] | None, why: str) -> Tried:
        shown = None if value is None else tuple(round(one, 4) if np.isfinite(one) else None for one in value)
        return Tried(
            step=self.step.id,
            site=self.settings.site,
            attack=name,
            measure=_MEASURES[name],
            members=int(self.member.sum()),
            strangers=int((~self.member).sum()),
            value=None if shown is None else shown[0],
            low=None if shown is None else shown[1],
            high=None if shown is None else shown[2],
            why=why,
        )


def _one_each(data: SiteData, rows: Ints, step: Config, seen: Any, rng: np.random.Generator) -> Ints:
    """Return one usable ECG of each patient among rows, of at most :data:`MOST` patients, drawn."""
    if step.heads:
        columns = [data.heads.index(head) for head in step.heads]
        rows = rows[~np.isnan(data.labels[rows][:, columns]).all(axis=1)]
    rows = rng.permutation(rows[seen.known(rows)])
    first = np.unique(data.patient[rows], return_index=True)[1]
    return np.asarray(rng.permutation(rows[first])[:MOST], dtype=np.int64)


def _ones(model: Any) -> Any:
    own = getattr(model, "item_losses", None)
    return torch.ones(1 if own is not None else len(model.heads))
