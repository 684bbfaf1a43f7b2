"""``ecgfed simulate attack RUN``: nets that a run released, tried against who was trained on."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from ecgshared.errors import ConfigError
from server.report.cli import rebuild
from server.report.tried import TRIED, read_tried
from simulations.attacks.door import made_cohort
from simulations.attacks.released import as_lines, try_run
from simulations.cli import app
from simulations.federation.run import simulate

NAMES = ("north", "south", "west")
BY_LOSS = ("loss", "loss less the untrained net's")


def ran(folder, *, steps=150, secure=False, **more):
    """A run over hospitals whose labels are drawn by lot: what its net knows of them it learnt by heart."""
    train = {"id": "net", "stage": "train", "uses": ["d"], "heads": ["dead"], "rounds": 1, "keep": "last"}
    train |= {"local": {"steps": steps, "batch_size": 32}, "optimiser": {"name": "adam", "lr": 0.005}} | more
    model = {"blocks": 1, "width": 16, "groups": 2, "hidden": 64, "dropout": 0.0, "covariates": ["age", "male"]}
    members = list(NAMES if secure else NAMES[:1])
    study = {
        "name": "tried",
        "sites": {"train": members},
        "input": {"fs_hz": 100, "seconds": 2},
        "endpoints": {"dead": {"kind": "binary", "column": "dead"}},
        "covariates": ["lvef", "bmi"],
        "steps": [{"id": "d", "stage": "describe"}, train | {"model": model}],
    } | ({"secure_sum": {}} if secure else {})
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    held = {}
    for number, name in enumerate(NAMES):
        site = {"site": name, "records": {"folder": "."}, "table": {"path": "none.csv", "columns": {"file": "file"}}}
        site |= {"state": str(folder / "state" / name), "studies": ["study.yaml"], "seed": 3}
        site |= {"privacy": {"weights": "secure_sum" if secure else "plain"}}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(site))
        held[path] = made_cohort(240, np.random.default_rng(number), train=0.4, lockbox=0.4)
    asked = {path: data for path, data in held.items() if path.stem in members}
    return simulate(folder / "study.yaml", list(asked), folder / "run", held=asked), held


def test_a_net_that_learnt_by_heart_is_found_out_and_the_report_says_so(tmp_path):
    run, held = ran(tmp_path)
    tried = try_run(run, [tmp_path / "north.yaml"], held=held)
    of = {one.attack: one for one in tried}
    assert set(of) == {*BY_LOSS, "direction of the first update", "sex, tried both ways"}
    assert all(one.members > 60 and one.strangers > 60 and one.low < one.value < one.high for one in tried)
    for name in (*BY_LOSS, "direction of the first update"):
        assert of[name].low > (0.6 if name in BY_LOSS else 0.5), name
    assert read_tried(run) == tuple(tried)
    page = rebuild(run)[0].read_text()
    assert "What was tried on this run" in page
    assert of["loss"].measure in page.replace("&#39;", "'")
    assert any("0." in line and "north" in line for line in as_lines(tried))


def test_a_net_that_hardly_learnt_tells_nobody(tmp_path):
    run, held = ran(tmp_path, steps=2, local={"steps": 2, "batch_size": None}, optimiser={"name": "sgd", "lr": 1e-3})
    of = {one.attack: one for one in try_run(run, [tmp_path / "north.yaml"], held=held)}
    assert of["loss"].low < 0.5 < of["loss"].high
    assert of["sex, tried both ways"].low <= 0 <= of["sex, tried both ways"].high
    # Yet the update itself, in the clear, is the members' gradient: this is what masks and noise are for.
    assert of["direction of the first update"].value > 0.55


def test_under_masks_the_update_is_not_there_to_be_read(tmp_path):
    run, held = ran(tmp_path, secure=True, local={"steps": 2, "batch_size": None})
    of = {one.attack: one for one in try_run(run, [tmp_path / "west.yaml"], held=held)}
    assert of["direction of the first update"].value is None
    assert "under masks" in of["direction of the first update"].why
    assert of["loss"].value is not None


def test_what_cannot_be_tried_is_named(tmp_path):
    run, held = ran(tmp_path, local={"steps": 2, "batch_size": None})
    with pytest.raises(ConfigError, match="none of these sites trained"):
        try_run(run, [tmp_path / "west.yaml"], held=held)
    with pytest.raises(ConfigError, match="one run at a time"):
        CliRunner().invoke(app, ["attack", str(run), "canaries"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="no site files lie beside"):
        CliRunner().invoke(app, ["attack", str(run)], catch_exceptions=False)
    (run / TRIED).write_text("[{}]")
    with pytest.raises(ConfigError, match="does not hold"):
        read_tried(run)
    assert "What was tried on this run" not in rebuild(run)[0].read_text()
