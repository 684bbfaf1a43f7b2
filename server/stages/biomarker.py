"""biomarker, at the coordinator: the regressions of stage regress, block after block, told per standard deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.ecg.beats import MedianBeat
from ecgshared.ecg.features import FEATURE_FS_HZ
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.terminal import terminal_slopes
from ecgshared.ecg.windows import samples_of
from ecgshared.errors import RunError
from ecgshared.stages.biomarker import AXIS, REASONS, Config, Measured, Result
from ecgshared.stages.results.base import Absences
from ecgshared.stages.results.biomarker import BiomarkerModel, SiteMeasured, Zoom
from ecgshared.stages.results.morph import Result as MorphResult
from ecgshared.stages.results.regress import CoefficientResult, FitResult, ModelResult
from ecgshared.stages.results.regress import Result as RegressResult
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, number, numbers, quorum
from server.report.biomarkers import biomarker_sections
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Section
from server.rounds.step_context import Artefact, Replies, StepContext
from server.stages import regress

AVL = LEADS.index("aVL")


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Count what was measured, then fit every block over the sites."""
    if not isinstance(step, Config):
        raise TypeError("a biomarker step's configuration was expected")
    absent: Absences = {}
    replies = context.ask("measured", quorum=quorum(context, context.sites))
    absences(replies, absent, "measured")
    blocks: list[RegressResult] = []
    for block in range(step.blocks):
        context.progress(block, step.blocks, "regressions")
        inner = replace(context, ask=_of_block(context, block), progress=lambda *_: None)
        try:
            blocks.append(regress.run(step.regression(block), inner).result)
        except RunError as error:
            if block == 0:
                raise
            absent.setdefault("pooled", {})[f"block {block}"] = error.what
            blocks.append(_empty(step, block))
    scales = [_scale(block) for block in blocks]
    context.progress(step.blocks, step.blocks, "done")
    result = Result(
        outcome=step.outcome,
        controls=step.controls,
        mean={name: value for block in blocks for name, value in block.means.items()},
        sd={name: number(value) for scale in scales for name, value in scale.items()},
        avl=tuple(_per_sd(model, scales[0]) for model in blocks[0].models),
        axis=next((_per_sd(model, scales[1]) for model in blocks[1].models), None),
        leads=tuple(
            _per_sd(model, scale) for block, scale in zip(blocks[2:], scales[2:], strict=True) for model in block.models
        ),
        sites={site: _site(reply, blocks[0], site) for site, reply in replies.by_site.items()},
        zoom=_zooms(step, context),
        absent=absent | blocks[0].absent,
    )
    return Artefact(step.id, "biomarker", result)


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """aVL close up, its coefficients alone and beside controls, site by site; every lead; left axis deviation."""
    return biomarker_sections(artefact.step, artefact.result, labels)


def _of_block(context: StepContext, block: int) -> Any:
    """Return ``ask`` with the number of a block beside whatever is asked."""

    def ask(phase: str, *, arrays: Mapping[str, Any] | None = None, **options: Any) -> Replies:
        return context.ask(phase, arrays={**(arrays or {}), "block": np.array([float(block)])}, **options)

    return ask


def _empty(step: Config, block: int) -> RegressResult:
    return RegressResult(
        outcomes=(step.outcome,),
        treatment=None,
        unknown_as_no=(),
        cutoff=None,
        means={},
        models=(),
        sites={},
        absent={},
    )


def _scale(block: RegressResult) -> dict[str, float]:
    """SD of each term over all sites, and 1 of a yes/no one, whose coefficient is of the term itself."""
    return {name: 1.0 if name == AXIS else sd for name, value in block.sds.items() if (sd := value) is not None}


def _per_sd(model: ModelResult, scale: Mapping[str, float]) -> BiomarkerModel:
    def told(fit: FitResult) -> FitResult:
        return fit.model_copy(
            update={"coefficients": {name: _times(c, scale.get(name, 1.0)) for name, c in fit.coefficients.items()}}
        )

    return BiomarkerModel(
        name=model.name,
        terms=model.terms,
        pooled=told(model.pooled),
        sites={site: told(fit) for site, fit in model.sites.items()},
        together=model.together,
    )


def _times(c: CoefficientResult, factor: float) -> CoefficientResult:
    def scaled(value: float | None) -> float | None:
        return None if value is None else value * factor

    return c.model_copy(update={name: scaled(getattr(c, name)) for name in ("value", "se", "low", "high")})


def _site(reply: Measured, block: RegressResult, site: str) -> SiteMeasured:
    return SiteMeasured(
        ecgs=number(reply.ecgs[0]),
        left_out=dict(zip(REASONS, numbers(reply.left_out), strict=True)),
        reason=block.sites[site].reason if site in block.sites else "gave no answer",
    )


def _zooms(step: Config, context: StepContext) -> tuple[Zoom, ...]:
    """aVL of a morph step's mean beats, and of the mean beat it moved."""
    moved = context.study.used(step, "morph")
    if moved is None:
        return ()
    result: MorphResult = context.inputs[moved.id].result
    beats: list[tuple[str, Any]] = []
    if result.from_mean is not None:
        beats += [("mean low-risk beat", result.from_mean.start_uv), ("its morph", result.from_mean.end_uv)]
    for group in ("training", "zero_shot"):
        if group in result.pooled.get("up", {}):
            pooled = result.pooled["up"][group]
            beats += [("mean of low-risk beats", pooled.start_uv), ("mean of their morphs", pooled.end_uv)]
            break
    return tuple(
        zoom(label, np.array(uv, dtype=np.float64) / 1000, result.fs_hz, result.window_s) for label, uv in beats
    )


def zoom(label: str, beat_mv: Floats, fs_hz: float, window_s: tuple[float, float]) -> Zoom:
    """Return aVL of a beat, (12, W) mV about its R peak, close up."""
    centre, _ = samples_of(window_s, fs_hz)
    level = beat_mv[:, : round(0.06 * fs_hz)].mean(axis=1, keepdims=True)
    beat = MedianBeat(
        np.asarray(beat_mv - level, dtype=np.float32),
        fs_hz,
        centre,
        np.array([0, round(0.9 * fs_hz)]),
        np.ones(2, dtype=bool),
        np.ones(12, dtype=np.float32),
    )
    found = terminal_slopes(beat)
    fs, lead = FEATURE_FS_HZ, found.scaled[AVL]
    middle = round(centre * fs / fs_hz)
    inside = slice(max(0, middle - round(0.08 * fs)), middle + round(0.14 * fs))
    first = np.concatenate([[np.nan], np.abs(np.diff(lead))])
    second = np.concatenate([[np.nan], np.abs(np.diff(lead, 2)), [np.nan]])
    time = 1000 * (np.arange(len(lead)) - middle) / fs
    peak, end = int(found.peak[AVL]), found.end
    return Zoom(
        label=label,
        ms=tuple(float(v) for v in time[inside]),
        scaled=_rounded(lead[inside]),
        d1=_rounded(first[inside]),
        d2=_rounded(second[inside]),
        peak_ms=number(time[peak]) if peak >= 0 else None,
        end_ms=number(time[end]) if end >= 0 else None,
        mean_d1=number(found.d1[AVL]),
        mean_d2=number(found.d2[AVL]),
    )


def _rounded(values: Floats) -> tuple[float | None, ...]:
    return tuple(None if v is None else round(v, 5) for v in numbers(values))
