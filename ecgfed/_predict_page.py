"""One HTML page of predictions: each recording's twelve-lead sheet, and what the model says of it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from jinja2 import Environment

from ecgfed._predict import Prediction, in_words
from ecgshared.applied.model import NOT_FOR_CARE, AppliedModel
from ecgshared.ecg.plot import twelve_lead_sheet
from ecgshared.ecg.record import EcgRecord
from ecgshared.service.files import write_atomically

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
    )
    write_atomically(path, html.encode("utf-8"))


def _sheet(record: EcgRecord) -> str:
    image = BytesIO()
    twelve_lead_sheet(record).savefig(image, format="svg")
    return base64.b64encode(image.getvalue()).decode("ascii")
