"""A trained model applied to recordings: the same score as at the sites, refusals, intervals, a page."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from typer.testing import CliRunner

from client.answer import Site
from client.ingest.reading import to_units
from client.readers import read
from client.rows import logits
from client.rows.risk import score_rows
from ecgfed._predict import in_words, load, predict
from ecgfed._predict_cli import app
from ecgshared.ecg.preprocess import preprocess_record
from ecgshared.errors import ConfigError
from ecgshared.study.study import load_study
from ecgshared.wire.protocol import Request
from server.report.model_cli import app as model_app
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

STEPS = [
    {"id": "score", "stage": "calibrate", "uses": ["risk"], "target": "death_2y", "inputs": ["risk.death_2y"]},
    {"id": "cutoff", "stage": "threshold", "uses": ["score"], "top_share": 0.3},
    {"id": "judged", "stage": "evaluate", "uses": ["score", "cutoff"]},
]


@pytest.fixture(scope="module")
def finished(hospitals, tmp_path_factory):
    """A run with a score, a cut-off and its evaluation, and what it was run with"""
    from federation import SmallFederation

    small = SmallFederation(hospitals, tmp_path_factory.mktemp("predict"))
    (small.folder / "twin").mkdir()
    train = small.train(heads=["death_2y", "years"], optimiser={"name": "adam", "lr": 0.01})
    train["model"] = {**train["model"], "covariates": []}
    endpoints = {
        "death_2y": {"kind": "time_to_event", "event": "death", "horizon_years": 2, "label": "death in two years"},
        "years": {"kind": "continuous", "column": "age", "range": [20, 100], "unit": "years"},
    }
    study = small.study(endpoints=endpoints, steps=[{"id": "cohorts", "stage": "describe"}, train, *STEPS])
    sites = small.sites()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logits, "_predict", lambda *asked: _COMPUTED.append(asked) or _PREDICT(*asked))
        return study, sites, simulate(study, sites, small.folder / "run")


_COMPUTED, _PREDICT = [], logits._predict


def test_no_step_computes_again_what_an_earlier_one_did(finished):
    """Calibration, cut-off and evaluation ask for validation and lockbox: each once a site, by all steps together."""
    asked = [(site.settings.site, site.step.id, rows.tobytes()) for site, _, _, _, rows in _COMPUTED]
    assert {step for _, step, _ in asked} == {"score", "judged"}
    assert len({(site, rows) for site, _, rows in asked}) == len(asked) >= 7


def _files(hospitals):
    folder = hospitals / "sites" / "island"
    return sorted(p for p in folder.rglob("*") if p.is_file() and _is_recording(p))


def _is_recording(path):
    try:
        read(path)
    except Exception:
        return False
    return path.suffix not in (".dat", ".mat") or not path.with_suffix(".hea").exists()


def test_the_score_is_that_of_the_evaluation(finished, hospitals):
    """Every ECG of the unseen hospital, each found by its own signal: equal to 1e-6, by run folder and by file."""
    study_file, sites, run = finished
    study = load_study(study_file)
    folder = RunFolder.reopen(run)
    folder.close()
    arrays = {
        f"{step}.{name}": a for step in ("risk", "score", "cutoff") for name, a in folder.artefact(step).arrays.items()
    }
    request = Request(study.sha256, "again", "judged", "ask", 0, arrays)
    context = Site(next(s for s in sites if s.stem == "island")).context(study, request, ledger=None)
    rows = context.data.rows("lockbox")
    at_site = score_rows(context, request, study.step("judged"), rows)
    by_signal = {context.data.signals[row].tobytes(): risk for row, risk in zip(rows, at_site, strict=True)}

    model, compared = load(run, "cutoff"), 0
    for file in _files(hospitals):
        told = predict(model, file)
        signal = to_units(preprocess_record(read(file), study.input)).tobytes()
        if told.refused or signal not in by_signal:
            continue
        risk = told.outputs[0]
        assert abs(risk.value - by_signal[signal]) < 1e-6
        assert risk.low < risk.value < risk.high
        assert risk.percentile[0] <= risk.percentile[1]
        assert risk.above == (risk.value >= folder.artefact("cutoff").result.cutoff)
        compared += 1
    assert compared >= 0.9 * len(rows) > 30


def test_percentiles_never_fall_with_the_risk(finished, hospitals):
    model = load(finished[2])
    risks = [predict(model, file).outputs[:1] for file in _files(hospitals)[:40]]
    told = sorted((o[0].value, *o[0].percentile) for o in risks if o)
    assert all(a[1] <= b[1] and a[2] <= b[2] for a, b in pairwise(told))


def test_a_file_tells_as_much_as_the_run(finished, hospitals, tmp_path):
    _, _, run = finished
    made = CliRunner().invoke(model_app, ["export", str(run), "cutoff", "--out", str(tmp_path / "m.ecgfed")])
    assert made.exit_code == 0, made.output
    file = _files(hospitals)[0]
    assert predict(load(tmp_path / "m.ecgfed"), file).as_json() == predict(load(run, "cutoff"), file).as_json()
    number = next(o for o in predict(load(run), file).outputs if o.kind == "number")
    assert (number.unit, number.interval) == ("years", "none: not yet judged")
    assert 0 < number.value < 150
    assert in_words(number).endswith("years")


def test_what_is_typed(finished, hospitals, tmp_path):
    _, _, run = finished
    files = [str(f) for f in _files(hospitals)[:2]]
    plain = CliRunner().invoke(app, [str(run), *files])
    assert plain.exit_code == 0, plain.output
    assert "death in two years" in plain.output
    assert "Research software" in plain.output
    page = tmp_path / "page.html"
    told = CliRunner().invoke(app, [str(run), *files, "--json", "--page", str(page)])
    lines = [json.loads(line) for line in told.output.splitlines()]
    assert [line["file"] for line in lines] == files
    assert lines[0]["outputs"][0]["low"] < lines[0]["outputs"][0]["high"]
    html = page.read_text(encoding="utf-8")
    assert html.count("twelve-lead sheet") == 2
    assert "no diagnosis" in html
    assert html.count("What death in two years hangs on") == html.count("What years hangs on") == 2


def test_shares_of_all_samples_add_up_to_what_the_net_says(finished, hospitals):
    """Integrated gradients' completeness: the output less that of a flat ECG, to 5% of it (128 points on the way)."""
    model = load(finished[2], "risk")
    one = predict(model, _files(hospitals)[0])
    net = model.nets["risk"]
    difference = net.outputs(one.signal, {}) - net.outputs(np.zeros_like(one.signal), {})
    found = model.shares(one.signal, one.known)
    total = np.array([share.sum() for share in found.values()])
    assert list(found) == ["risk.death_2y", "risk.years"]
    assert all(share.shape == one.signal.shape for share in found.values())
    np.testing.assert_allclose(total, difference, rtol=0.05, atol=0.01)


def test_what_no_site_would_take_is_refused(finished, tmp_path):
    broken = tmp_path / "x.hea"
    broken.write_text("x 12 500 10\n")
    told = CliRunner().invoke(app, [str(finished[2]), str(broken)])
    assert told.exit_code == 1
    assert "%" not in told.output
    flat = tmp_path / "flat.csv"
    np.savetxt(flat, np.zeros((5000, 12)), delimiter=",")
    one = predict(load(finished[2]), flat)
    assert one.refused
    assert one.outputs == ()


def test_a_covariate_the_model_does_not_take_is_named(finished, hospitals):
    told = CliRunner().invoke(app, [str(finished[2]), str(_files(hospitals)[0]), "--given", "lvef=0.4"])
    assert isinstance(told.exception, ConfigError)
    assert "takes no such thing" in str(told.exception)
