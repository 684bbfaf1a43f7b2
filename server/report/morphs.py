"""How morphs are shown: twelve leads before and after, beside real people, the risk along the way, what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ecgshared.ecg.leads import LEADS
from ecgshared.stages.results.base import EstimateResult
from ecgshared.stages.results.morph import Change, PooledMoved, Result
from server.report.labels import Labels
from server.report.sections import Block, Cell, Figure, Key, Panels, Section, Series, Table, Text

STANDARD_LAYOUT = ("I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6")
"""Three rows of four, as carts print them."""

_GROUPS = {
    "training": "held-out people of hospitals that trained",
    "zero_shot": "people of hospitals that did not train",
}
_WAYS = {
    "up": ("low-risk beats, moved up", "low-risk beat", "its morph"),
    "down": ("high-risk beats, moved down", "high-risk beat", "its morph"),
}
_MEASURED = {"qrs_axis_deg": "QRS axis, degrees", "qrs_ms": "QRS duration, ms", "t_axis_deg": "T axis, degrees"}
_BY_LEAD = {"r_mv": "R, mV", "s_mv": "S, mV", "d1": "end of QRS, mean |d1|", "d2": "end of QRS, mean |d2|"}
_LEFT_AXIS = "A negative change of the QRS axis turns it to the left."


def morph_sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """Return one section."""
    blocks: list[Block] = [*_keys(step, r, labels), Text(_about(r, labels))]
    for way, (title, before, after) in _WAYS.items():
        for group, pooled in r.pooled.get(way, {}).items():
            whom = _GROUPS[group]
            blocks.append(_beats(f"{title}: {whom}", r, pooled, before, after))
            blocks.append(_difference(f"What changes: {title}, {whom}", r, pooled, way, group))
            blocks.append(_by_lead(f"By lead: {title}, {whom}", pooled))
    blocks += [*_paths(r), *_mean_beat(r), _sites(r, labels)]
    return [Section(f"{labels.step(step)}: morphs", blocks)]


def _about(r: Result, labels: Labels) -> str:
    return (
        f"One beat of each patient was moved through the latent space of {labels.step(r.vae)} along the gradient of "
        f"the logit that {labels.step(r.net)} gives it for {labels.endpoint(r.head)}: from below the "
        f"{100 * r.low_share:g}th percentile of predicted risk to the {100 * r.high_share:g}th, and from above that "
        "down to the first. Shown are means over patients, with their 95% intervals; no single beat left a hospital."
    )


def _keys(step: str, r: Result, labels: Labels) -> list[Key]:
    found = []
    for group, pooled in r.pooled.get("up", {}).items():
        axis, slur = pooled.measured["qrs_axis_deg"].change, pooled.leads["aVL"]["d1"]
        share = None if slur.before is None or slur.change.value is None else 100 * slur.change.value / slur.before
        found.append(
            Key(
                "Morphs to high risk: change of the QRS axis",
                None if axis.value is None else f"{axis.value:+.1f} degrees",
                f"{_interval(axis)}; slope of the end of QRS in aVL "
                + ("withheld" if share is None else f"{share:+.0f}%")
                + f"; {_GROUPS[group]}",
                labels.about(step),
            )
        )
    return found


def _time_ms(r: Result) -> list[float]:
    samples = next((len(p.start_uv[0]) for of in r.pooled.values() for p in of.values()), 0)
    return [1000 * r.window_s[0] + 1000 * i / r.fs_hz for i in range(samples)]


def _mv(lead: Sequence[float | None]) -> list[float | None]:
    return [None if v is None else v / 1000 for v in lead]


def _beats(title: str, r: Result, pooled: PooledMoved, before: str, after: str) -> Panels:
    x = _time_ms(r)
    panels = []
    for lead in STANDARD_LAYOUT:
        i = LEADS.index(lead)
        panels.append(
            (
                lead,
                [
                    Series(f"mean {before}", x, _mv(pooled.start_uv[i])),
                    Series(f"mean of {after}", x, _mv(pooled.end_uv[i]), emphasis=True),
                ],
            )
        )
    return Panels(
        title,
        [],
        "ms from the R peak of lead I",
        "mV",
        caption=f"Thin: the mean {before}, as reconstructed. Dark: the mean of {after}. {_n(pooled)}.",
        panels=panels,
    )


def _difference(title: str, r: Result, pooled: PooledMoved, way: str, group: str) -> Panels:
    x, real = _time_ms(r), r.difference_uv.get(group)
    sign = 1 if way == "up" else -1
    panels = []
    for lead in STANDARD_LAYOUT:
        i = LEADS.index(lead)
        pairs = zip(pooled.start_uv[i], pooled.end_uv[i], strict=True)
        moved = [None if a is None or b is None else (b - a) / 1000 for a, b in pairs]
        low, high = _mv(pooled.low_uv[i]), _mv(pooled.high_uv[i])
        series = [Series("morph", x, moved, low=low, high=high, emphasis=True)]
        if real is not None:
            series.append(Series("real", x, [None if v is None else sign * v / 1000 for v in real[i]], muted=True))
        panels.append((lead, series))
    agreement = r.agreement.get(group)
    beside = (
        ""
        if real is None
        else " Grey: real people, those above the high percentile less those below the low one"
        + (" (turned round)" if sign < 0 else "")
        + ("." if agreement is None else f"; correlation with the morphs up {agreement:.2f}.")
    )
    return Panels(
        title,
        [],
        "ms from the R peak of lead I",
        "mV",
        reference=0.0,
        caption=f"Dark: mean morph less mean beat, with its 95% interval.{beside}",
        panels=panels,
    )


def _by_lead(title: str, pooled: PooledMoved) -> Table:
    rows: list[list[Cell]] = [
        [lead, *(_moved(pooled.leads[lead][name], digits=4 if name.startswith("d") else 2) for name in _BY_LEAD)]
        for lead in LEADS
    ]
    rows += [[_MEASURED[name], _moved(change, digits=1), *["-"] * 3] for name, change in pooled.measured.items()]
    return Table(
        title,
        ["", *_BY_LEAD.values()],
        rows,
        note="Before, and change with its 95% interval. d1 and d2: mean absolute first and second differences of the "
        f"scaled lead from its R peak to the end of QRS, a sample at 500 Hz; less is slurred. {_LEFT_AXIS}",
    )


def _moved(c: Change, *, digits: int) -> Cell:
    if c.before is None or c.change.value is None:
        return None
    return f"{c.before:.{digits}f}, {c.change.value:+.{digits}f}{_interval(c.change, digits, ' ')}"


def _interval(e: EstimateResult, digits: int = 1, lead: str = "") -> str:
    if e.low is None or e.high is None:
        return f"{lead}no interval" if not lead else ""
    return f"{lead}({e.low:+.{digits}f} to {e.high:+.{digits}f})"


def _paths(r: Result) -> list[Block]:
    series = []
    for way, of in r.pooled.items():
        for group, pooled in of.items():
            mean = [p.mean for p in pooled.path]
            if all(m is None for m in mean):
                continue
            sd = [p.sd for p in pooled.path]
            x = list(np.linspace(0, 1, len(mean)))
            low, high = (
                [None if m is None or s is None else m + k * s for m, s in zip(mean, sd, strict=True)] for k in (-1, 1)
            )
            series.append(Series(f"{way}: {_GROUPS[group]}", x, mean, low=low, high=high))
    if not series:
        return []
    return [
        Figure(
            "Predicted risk along the way",
            series,
            "share of a beat's own way",
            "logit",
            reference=r.high_logit,
            caption="Mean and one SD over patients. The line: the percentile at which beats arrive going up.",
        )
    ]


def _mean_beat(r: Result) -> list[Block]:
    made = r.from_mean
    if made is None:
        return []
    x = _time_ms(r)
    panels = [
        (
            lead,
            [
                Series("mean beat", x, _mv(made.start_uv[LEADS.index(lead)])),
                Series("its morph", x, _mv(made.end_uv[LEADS.index(lead)]), emphasis=True),
            ],
        )
        for lead in STANDARD_LAYOUT
    ]
    axis = made.measured["qrs_axis_deg"]
    known = axis.before is not None and axis.change.value is not None
    turned = f" Its QRS axis of {axis.before:.0f} degrees moves by {axis.change.value:+.0f}." if known else ""
    return [
        Panels(
            "One morph: of the mean low-risk beat, which is nobody's",
            [],
            "ms from the R peak of lead I",
            "mV",
            caption=f"Made by the coordinator from means alone, in {made.steps} steps.{turned}",
            panels=panels,
        )
    ]


def _sites(r: Result, labels: Labels) -> Table:
    rows: list[list[Cell]] = []
    for way, of in r.sites.items():
        for site, s in of.items():
            rows.append(
                [
                    labels.site(site),
                    way,
                    s.patients,
                    s.left_out,
                    None if s.arrived is None else f"{100 * s.arrived:.0f}%",
                    None if s.steps is None else f"{s.steps:.0f}",
                    None if s.reconstruction_mse is None else f"{1000 * np.sqrt(s.reconstruction_mse):.0f}",
                    _pair(s.logit_before.mean, s.logit_after.mean),
                ]
            )
    rows += [[labels.site(site), *["-"] * 6, "; ".join(_words(why))] for site, why in r.absent.items()]
    return Table(
        "Whose beats were moved",
        [
            "hospital",
            "",
            "patients",
            "left out",
            "arrived",
            "steps, mean",
            "reconstruction, RMS uV",
            "logit, before and after",
        ],
        rows,
        note="Left out: the VAE reconstructs the beat too badly.",
    )


def _pair(before: float | None, after: float | None) -> Cell:
    return None if before is None or after is None else f"{before:.2f}, {after:.2f}"


def _words(why: Mapping[str, str]) -> list[str]:
    return [f"{phase}: {reason}" for phase, reason in why.items()]


def _n(pooled: PooledMoved) -> str:
    return "patients withheld" if pooled.patients is None else f"{pooled.patients:.0f} patients"
