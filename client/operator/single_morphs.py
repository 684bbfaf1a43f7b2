"""One person's morphs, at the site: from what a morph step left here, on the person's own beats. Nothing is sent."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from client.answer import Site
from client.approval.required import approved_study
from client.cohort.identities import normal_id
from client.dataset.single_beats import SingleBeats
from client.rows.context import SiteContext
from client.rows.logits import head_logits
from client.site.keys import load_keys
from client.site.settings import SiteSettings
from client.stages.morph import KEPT, Mover, typical
from ecgshared.arrays import Floats
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.windows import BEAT_S
from ecgshared.errors import CohortError, RunError
from ecgshared.stages.morph import MEASURED, Config, Direction, measured, nets
from ecgshared.wire.protocol import Request

_LAYOUT = ("I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6")


@dataclass(frozen=True)
class SingleMorph:
    """One ECG of a person.

    Attributes
    ----------
    real, start, end : the beat, its reconstruction and its morph, shape = (12, W), mV.
    logit : that the net sees in the ECG. before, after : in the reconstruction and in the morph.
    target : where it was to arrive; arrived : whether it did, in so many steps.
    change : of :data:`ecgshared.stages.morph.MEASURED`, by name: before, after.
    """

    number: int
    split: str
    fs_hz: float
    real: NDArray[np.float32]
    start: NDArray[np.float32]
    end: NDArray[np.float32]
    logit: float
    before: float
    after: float
    target: float
    steps: int
    arrived: bool
    change: dict[str, tuple[float, float]]


def single_morphs(
    path: Path,
    settings: SiteSettings,
    run: str,
    patient_id: str,
    *,
    direction: Direction = "up",
    step: str | None = None,
) -> list[SingleMorph]:
    """Move one beat of each of a person's ECGs, as a morph step of a run moved those of its groups.

    Raises
    ------
    RunError : the run moved no beats here, or what it left is damaged.
    CohortError : nobody in the step's cohort has this id, or no ECG of the person has a beat.
    """
    kept = _kept(settings, run, step)
    arrays, told = _read(kept)
    study = approved_study(settings, told["study"])
    config = study.step(told["step"])
    assert isinstance(config, Config)
    context = Site(path).context(study, Request(study.sha256, run, config.id, "morph", 0, {}), ledger=None)
    rows = _rows_of(context, patient_id)
    seen = SingleBeats(context.data)
    rows = rows[seen.known(rows)]
    if not len(rows):
        raise CohortError("no ECG of this person has a beat that meets the limits")
    beats, _ = typical(seen, rows)
    target = float(arrays["cuts"][1 if direction == "up" else 0])
    found, missed, good = Mover(context, config, arrays).moved(beats, target=target, up=direction == "up")
    if not good.any():
        raise CohortError(
            "the VAE reconstructs none of this person's beats well enough",
            value=f"{float(missed.min()):.3g} mV^2",
            allowed=f"{config.max_mse:g}",
        )
    _, net, head = nets(config, study)
    logits = head_logits(context, net, arrays | {f"{net.id}.standardise": _standard(context)}, rows)[:, head]
    before, after = (measured(of, context.data.fs_hz)[0] for of in (found.start, found.end))
    return [
        SingleMorph(
            number=number,
            split=("train", "validation", "lockbox")[int(context.data.split[row])],
            fs_hz=context.data.fs_hz,
            real=beats[good][number],
            start=found.start[number],
            end=found.end[number],
            logit=float(logits[good][number]),
            before=float(found.path[number, 0]),
            after=float(found.path[number, -1]),
            target=target,
            steps=int(found.steps[number]),
            arrived=bool(found.arrived[number]),
            change={name: (float(before[number, m]), float(after[number, m])) for m, name in enumerate(MEASURED)},
        )
        for number, row in enumerate(rows[good])
    ]


def draw(morph: SingleMorph, out: Path) -> None:
    """Draw twelve leads before and after into an image that the owner alone may read."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 4, sharex=True, sharey=True)
    time = 1000 * (BEAT_S[0] + np.arange(morph.start.shape[1]) / morph.fs_hz)
    for place, lead in zip(axes.ravel(), _LAYOUT, strict=True):
        i = LEADS.index(lead)
        place.plot(time, morph.real[i], color="#9aa5b1", linewidth=0.8, label="the beat")
        place.plot(time, morph.start[i], color="#0072B2", linewidth=1.2, label="as reconstructed")
        place.plot(time, morph.end[i], color="#1f2933", linewidth=1.6, label="its morph")
        place.set_title(lead, fontsize=9, loc="left")
        place.grid(True, color="#e6eaee")
    axes[0, 0].legend(fontsize=7)
    figure.supxlabel("ms from the R peak of lead I", fontsize=9)
    figure.supylabel("mV", fontsize=9)
    figure.suptitle("A single person's morph: it stays at this site", fontsize=10)
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        figure.savefig(file, format="png")


def _kept(settings: SiteSettings, run: str, step: str | None) -> Path:
    runs = settings.state / "runs"
    found = {path.parent.name: path for path in sorted((runs / _name_of(run)).glob(f"*/{KEPT}"))}
    if not found:
        others = sorted({path.parents[1].name for path in runs.glob(f"*/*/{KEPT}")})
        raise RunError(
            "this site moved no beats in such a run", value=run, allowed=", ".join(others) or "no run with a morph step"
        )
    if step is not None and step not in found:
        raise RunError("the run has no such morph step here", value=step, allowed=", ".join(found))
    return found[step] if step is not None else next(iter(found.values()))


def _name_of(run: str) -> str:
    """Return the name sites know a run by: as given, or of the run's folder where one is given."""
    try:
        told = json.loads((Path(run) / "run.json").read_bytes())
    except (OSError, ValueError):
        return Path(run).name
    return Path(str(told.get("run", run))).name


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    try:
        with safe_open(path, framework="numpy") as file:
            told = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        raise RunError("what the morph step left here is damaged", where=path) from None
    if "cuts" not in arrays or not {"study", "step"} <= set(told):
        raise RunError("what the morph step left here is not whole", where=path)
    return arrays, told


def _rows_of(context: SiteContext, patient_id: str) -> NDArray[np.int64]:
    data = context.data
    pseudonym = load_keys(context.settings).patient(normal_id(patient_id))
    key = np.frombuffer(pseudonym[:8], dtype=">u8").astype(np.uint64)
    rows = np.zeros(0, dtype=np.int64) if data.patient_keys is None else np.flatnonzero(data.patient_keys == key)
    if not len(rows):
        raise CohortError(
            "nobody whom this step may see has this id",
            value=patient_id,
            remedy="an id as in the table, of a person in the study's cohort; a training site's lockbox stays closed",
        )
    return rows


def _standard(context: SiteContext) -> Floats:
    """A net of single beats has no covariates: nothing is standardised."""
    return np.tile([0.0, 1.0], (2 + len(context.study.covariates), 1))
