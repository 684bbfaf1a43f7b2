"""One HTML page of predictions: each recording's sheet, what the model says of it, and what that hangs on."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray

from ecgfed._predict import Prediction, in_words
from ecgshared.applied.model import NOT_FOR_CARE, AppliedModel
from ecgshared.arrays import Floats
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.plot import twelve_lead_sheet
from ecgshared.ecg.record import EcgRecord
from ecgshared.service.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Predictions of {{ study }}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#111}
img{width:100%}table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .75rem;text-align:left;
border-bottom:1px solid #ccc}p.care{border:2px solid #a00;padding:.5rem 1rem}section{margin:3rem 0}</style></head><body>
<h1>Predictions of {{ study }}</h1><p class="care">{{ care }}</p>
<p>Step {{ step }}; trained at {{ sites }}.</p>
{% for one in found %}<section><h2>{{ one.file.name }}</h2>
{% if one.refused %}<p>{{ one.refused }}</p>{% else %}
{% if one.findings %}<p>Quality: {{ one.findings | join(", ") }}{{ " (repaired)" if one.repaired }}</p>{% endif %}
<table><tr><th>output</th><th>what the model says</th><th>its interval</th></tr>
{% for o in one.outputs %}<tr><td>{{ o.label }}</td><td>{{ words(o) }}</td><td>{{ o.interval }}</td></tr>{% endfor %}
</table>
{% if one.record %}<img alt="twelve-lead sheet" src="data:image/svg+xml;base64,{{ sheet(one.record) }}">{% endif %}
{% for name, picture in hangs_on(one) %}<h3>What {{ name }} hangs on</h3>
<img alt="shares of {{ name }}" src="data:image/png;base64,{{ picture }}">{% endfor %}
{% if one.signal is not none %}<p>Each sample's share in what the net says (integrated gradients, over 0.1 s): red
raises it, blue lowers it, grey does neither. It tells how this net computes, not why this heart is as it is.</p>
{% endif %}
{% endif %}</section>{% endfor %}</body></html>
"""


def write_page(path: Path, model: AppliedModel, found: Sequence[Prediction]) -> None:
    """Write the page; it needs no other file."""
    page = Environment(autoescape=True).from_string(_PAGE)
    html = page.render(
        study=model.told["study"],
        step=model.told["step"],
        sites=", ".join(model.told["trained_at"]),
        care=NOT_FOR_CARE,
        found=found,
        words=in_words,
        sheet=_sheet,
        hangs_on=lambda one: _hangs_on(model, one),
    )
    write_atomically(path, html.encode("utf-8"))


def _sheet(record: EcgRecord) -> str:
    image = BytesIO()
    twelve_lead_sheet(record).savefig(image, format="svg")
    return base64.b64encode(image.getvalue()).decode("ascii")


MOST_PICTURES = 4
"""Heads of a model whose shares are drawn."""
_OVER_S = 0.1


def _hangs_on(model: AppliedModel, one: Prediction) -> Iterator[tuple[str, str]]:
    """Give each head in words, and its picture as PNG in base64: the ECG that the net saw, coloured by shares."""
    if one.signal is None:
        return
    shares = model.shares(one.signal, one.known)
    for name, share in list(shares.items())[:MOST_PICTURES]:
        figure = _coloured(one.signal, share, model.input.fs_hz)
        image = BytesIO()
        figure.savefig(image, format="png", dpi=110)
        yield model.label(name.partition(".")[2]), base64.b64encode(image.getvalue()).decode("ascii")


def _coloured(signal: NDArray[np.float32], share: Floats, fs_hz: float) -> Figure:
    """Draw twelve leads under one another, each piece in the colour of its share."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    width = max(round(_OVER_S * fs_hz), 1)
    smooth = np.apply_along_axis(np.convolve, 1, share, np.ones(width), mode="same")
    most = float(np.quantile(np.abs(smooth), 0.995)) or 1.0
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    time, apart = np.arange(signal.shape[1]) / fs_hz, max(3 * float(signal.std()), 0.1)
    for number, (lead, row) in enumerate(zip(LEADS, signal, strict=True)):
        points = np.stack([time, row - 2 * apart * number], axis=1)
        pieces = np.stack([points[:-1], points[1:]], axis=1)
        lines = LineCollection(list(pieces), cmap="coolwarm", array=smooth[number, :-1], linewidths=1.2)
        lines.set_clim(-most, most)
        axes.add_collection(lines)
        axes.text(-0.15, -2 * apart * number, lead, ha="right", va="center")
    axes.set(xlim=(0, time[-1]), ylim=(-2 * apart * 12, 3 * apart), xlabel="seconds", yticks=[])
    axes.spines[["left", "right", "top"]].set_visible(False)
    return figure
