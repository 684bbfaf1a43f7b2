"""A model as one graph with its preprocessing inside: the same numbers as torch, and as `ecgfed predict`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.readers import read
from ecgfed._predict import predict
from ecgshared.applied.file import ModelFile
from ecgshared.applied.model import AppliedModel
from ecgshared.applied.preprocessing import Preprocessing, foreseen
from ecgshared.ecg import preprocess as sites
from ecgshared.ecg.input import InputConfig
from ecgshared.errors import ModelError
from ecgshared.learning.layout import Layout
from ecgshared.models import HeadSpec, build, config_class

SCRIPT = Path(__file__).parents[2] / "deploy" / "predict_onnx.py"
INPUTS = {
    "band": InputConfig(fs_hz=100, seconds=7, band_hz=(0.5, 40)),
    "notch": InputConfig(fs_hz=250, seconds=5, mains_hz=50, pad="right"),
    "plain": InputConfig(fs_hz=500, seconds=10, baseline="none", resample="linear"),
    "short": InputConfig(fs_hz=120, seconds=12, band_hz=(0.3, 45)),
}


def model_of(name="resnet1d", given=INPUTS["band"], **changes):
    """A model file as a run would leave it, with weights of a seed: a net, a calibration, a judged age."""
    config = config_class(name)(name=name, covariates=("age",), **changes)
    endpoints = {
        "death": {"kind": "time_to_event", "event": "death", "horizon_years": 2},
        "years": {"kind": "continuous", "column": "age", "range": [20, 100], "unit": "years"},
    }
    heads = [HeadSpec("death"), HeadSpec("years", continuous=True)]
    net = build(config, heads, given.samples, 5)
    trained = {
        **{"heads": ["death", "years"], "judged": ["death", "years"], "sites": ["a"], "withheld_sites": []},
        **{"rounds": 1, "parameters": 1, "layout": "", "kept_round": 1, "strategy": "fedavg", "absent": {}},
        **{"model": config.model_dump(mode="json"), "input": given.model_dump(mode="json"), "seed": 5},
        **{"covariates": ["age", "male"], "local": {}, "optimiser": {}, "learning_rate": [], "validation": []},
        **{"training_loss": [], "privacy": None},
    }
    covariance = [[0.04, 0.01, 0.0], [0.01, 0.02, 0.0], [0.0, 0.0, 1e-6]]
    calibrated = {"target": "death", "inputs": ["risk.death", "age"], "covariance": covariance}
    told = {
        **{
            "step": "score",
            "stage": "calibrate",
            "config": {},
            "result": calibrated,
            "study": "made",
            "trained_at": ["a"],
        },
        "endpoints": endpoints,
        "parts": {"risk": {"stage": "train", "config": {"precision": "fp32"}, "result": trained}},
        "judged": {"ages": {"stage": "age_sex", "result": {"conformal": {"risk.years": 11.5}}}},
    }
    weights = {"weights": Layout.of(net).flatten(net), "standardise": np.array([[60.0, 15.0], [0.5, 0.5]])}
    return AppliedModel(ModelFile(told, {"coef": np.array([-1.0, 0.8, 0.02])}, {"risk": weights}), "a test")


def recordings(shared_data, fs):
    """A hundred real recordings of one rate and length."""
    files = sorted((shared_data / "ptbxl").rglob("*.hea"))[:100]
    records = [(file, read(file)) for file in files]
    return [(file, record) for file, record in records if record.fs == fs and record.p_signal.shape[1] == 10 * fs]


def test_prediction_of_what_lies_beyond_is_the_same():
    x = np.cumsum(np.random.default_rng(0).normal(size=(3, 400)), axis=1).astype(np.float32)
    for count, rows in ((7, x), (55, x), (20, x[:, :30])):
        ours = foreseen(torch.tensor(rows, dtype=torch.float64), count).numpy()
        np.testing.assert_allclose(ours, sites._foreseen(rows, count)[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("fs", [100, 240, 400, 500, 1000])
@pytest.mark.parametrize("name", INPUTS)
def test_preprocessing_in_torch_is_the_sites(name, fs):
    """To a microvolt, the resolution both round to, in all but what lies on the edge between two."""
    rng = np.random.default_rng(1)
    time = np.arange(10 * fs) / fs
    x = np.stack([np.sin(2 * np.pi * (1.1 + k / 7) * time) + 0.2 * np.sin(2 * np.pi * 9 * time + k) for k in range(12)])
    x = (x + 0.02 * rng.normal(size=x.shape)).astype(np.float32)
    x[4] = np.nan
    theirs = sites.preprocess(x[None], fs, INPUTS[name])[0]
    ours = Preprocessing(INPUTS[name], fs, x.shape[1])(torch.tensor(x)).numpy()
    assert np.abs(ours - theirs).max() < 1.2e-3
    assert (ours[4] == 0).all()
    assert (np.abs(ours - theirs) > 6e-4).mean() < 0.02


def test_the_most_frequent_value_is_refused():
    with pytest.raises(ModelError, match="most frequent value"):
        Preprocessing(InputConfig(baseline="mode"), 500, 5000)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet1d", "crnn", "s4", "attia_cnn"])
def test_the_graph_equals_torch_on_real_recordings(shared_data, tmp_path, name):
    """100 recordings of PTB-XL through every net: risks of graph and torch to 1e-5, ages to 0.001 years."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from ecgshared.applied.onnx import Graph, write_onnx

    model = model_of(name)
    file = tmp_path / "m.onnx"
    write_onnx(model, file, fs=500, seconds=10)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    graph = Graph(model, 500, 5000).eval()
    worst = beside_predict = years = 0.0
    found = recordings(shared_data, 500)
    for path, record in found:
        beside = np.array([63.0 if record.age_years is None else record.age_years])
        told = session.run(None, {"ecg": record.p_signal.astype(np.float32), "beside": beside})
        with torch.no_grad():
            expected = graph(torch.tensor(record.p_signal), torch.tensor(beside))
        for ours, theirs in zip(told, expected, strict=True):
            known = ~np.isnan(ours)
            np.testing.assert_array_equal(known, ~np.isnan(theirs.numpy()))
            apart = np.abs(ours - theirs.numpy())
            worst = max(worst, float(apart[:2][known[:2]].max(initial=0.0)))
            years = max(years, float(apart[2]))
        said = predict(model, path, given={"age": float(beside[0])})
        if not said.refused and not said.repaired:
            beside_predict = max(beside_predict, abs(said.outputs[0].value - told[0][0]))
    print(
        f"{name}: {len(found)} recordings, graph and torch {worst:.1e}, {years:.1e} years; predict {beside_predict:.1e}"
    )
    assert len(found) == 100
    assert worst < 1e-5
    assert years < 1e-3
    assert beside_predict < 1e-3


def test_the_script_needs_nothing_of_ecgfed(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from ecgshared.applied.onnx import write_onnx

    model, file = model_of(), tmp_path / "m.onnx"
    write_onnx(model, file, fs=250, seconds=8)
    ecg = np.random.default_rng(2).normal(size=(2000, 12)).round(3)
    np.savetxt(tmp_path / "ecg.csv", ecg, delimiter=",")
    run = [sys.executable, "-I", str(SCRIPT), str(file), str(tmp_path / "ecg.csv")]
    done = subprocess.run([*run, "age=70"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("death (risk): 0.")
    assert " to " in lines[0]
    assert lines[2].startswith("years (number): ")
    assert lines[2].endswith("years")
    assert "Research software" in lines[-1]
    assert (
        "does not take lvef" in subprocess.run([*run, "lvef=0.4"], capture_output=True, text=True, check=False).stderr
    )


def test_a_number_has_its_conformal_interval():
    model = model_of()
    number = model(np.zeros((12, 700), dtype=np.float32), {"age": 50.0})[2]
    assert (number.high - number.value, number.unit) == (pytest.approx(11.5), "years")
    assert "90% interval" in number.interval
    unknown = model(np.zeros((12, 700), dtype=np.float32), {})[0]
    assert unknown.lacks == ("age",)
    assert np.isnan(unknown.value)
    assert replace(unknown, lacks=()).lacks == ()
