"""describe at the site: what its counts would tell of a few is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from federated_stages import Federation, site_data, study
from hypothesis import given
from hypothesis import strategies as st

from client.egress.gate import release
from client.stages.describe import _flow_evidence, counts
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.describe import VARIABLES, SiteCounts, moments
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Request


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(0, 40))
def test_no_two_lines_of_a_flow_that_leave_differ_by_a_small_group(removed, rest):
    patients = np.array(rest + np.cumsum([0, *removed])[::-1], dtype=float)
    told = patients[_flow_evidence(patients, 10) >= 10]
    steps = np.abs(told[:, None] - told[None, :])
    assert not ((steps > 0) & (steps < 10)).any()
    assert (told >= 10).all()


def test_the_cohort_itself_is_told_though_a_rule_before_it_took_out_few():
    evidence = _flow_evidence(np.array([1150.0, 1150.0, 1124.0, 1121.0, 1100.0, 1100.0]), 10)
    assert (evidence >= 10).tolist() == [True, True, True, False, True, True]


def test_moments_are_those_of_the_values():
    values = np.array([1.0, 4.0, 7.5, 2.0])
    mean, sd = moments(np.array([4, values.sum(), (values**2).sum()]))
    np.testing.assert_allclose([mean, sd], [values.mean(), values.std()])
    assert np.isnan(moments(np.zeros(3))).all()


@pytest.mark.parametrize(("unlabelled", "told"), [(0, True), (1, False), (15, True)])
def test_table_1_does_not_leave_the_few_without_a_label_over(unlabelled, told):
    """Everybody less those with and those without the event would be the one of whom it is not known."""
    data = site_data(1, 400, split="lockbox")
    labels = data.labels.copy()
    labels[:, 0] = np.where(np.nan_to_num(labels[:, 0], nan=0.0) == 1, 1.0, 0.0)
    labels[np.isin(data.patient, np.arange(unlabelled)), 0] = np.nan
    federation = Federation(study([{"id": "who", "stage": "describe"}]), {"c": replace(data, labels=labels)})
    federation.limits = DisclosureLimits()
    request = Request(federation.study.sha256, "run", "who", "counts", 0, {})
    sealed = release(
        counts(federation.context("who", "c"), request), request, stage="describe", settings=federation.settings("c")
    )
    left = decode_payload(sealed.body, SiteCounts, stamp_of(request, "c"))
    everybody, with_event, without = left.table1[:3, VARIABLES.index("age"), 0]
    assert np.isfinite([everybody, with_event]).all()
    assert np.isfinite(without) == told
    # Sex is known of all: its two groups make up everybody.
    assert np.isfinite(left.table1[3:5, VARIABLES.index("age"), 0]).all()


def columns_beside(data):
    """A defibrillator for a third of the patients, and a declared flag and number."""
    device = (data.patient % 3 == 0).astype(float)
    rng = np.random.default_rng(4)
    lvef = np.where(rng.random(len(data)) < 0.4, data.covariates["lvef"], np.nan).astype(np.float32)
    return replace(
        data,
        columns={
            "defibrillator": device,
            "coronary": (data.patient % 4 == 1).astype(float),
            "risk10": data.age / 100.0,
        },
        covariates={**data.covariates, "lvef": lvef},
        follow_up_years=rng.gamma(2.0, 2.0, len(data)).astype(np.float32),
    )


DECLARED = {
    "coronary": {"kind": "flag", "label": "coronary disease"},
    "risk10": {"kind": "number", "range": [0, 2], "label": "ten-year risk"},
}


def test_table_1_has_devices_declared_columns_and_the_share_measured_as_pandas_has_them():
    data = {site: columns_beside(site_data(i, 400)) for i, site in enumerate("abc", 1)}
    made = Federation(study([{"id": "who", "stage": "describe"}], columns=DECLARED), data, DisclosureLimits())
    result = made.run()["who"].result
    for site, d in data.items():
        # Nobody opened the lockbox of a site that trains in this harness but the stage itself: all rows are given.
        f = pd.DataFrame({**d.columns, "lvef_measured": np.isfinite(d.covariates["lvef"]), "y": d.labels[:, 0]})
        for name in ("defibrillator", "coronary", "risk10", "lvef_measured"):
            for group, mine in (("all", f), ("event: event", f[f.y == 1]), ("event: no event", f[f.y == 0])):
                found = result["sites"][site]["table1"][group][name]
                if found["mean"] is not None:
                    assert found["mean"] == pytest.approx(mine[name].mean(), rel=1e-6)
                    assert found["sd"] == pytest.approx(mine[name].astype(float).std(ddof=0), rel=1e-5)
            assert result["sites"][site]["table1"]["all"][name]["mean"] is not None
        quartiles = result["sites"][site]["follow_up_quartiles"]
        np.testing.assert_allclose(quartiles, np.quantile(d.follow_up_years, (0.25, 0.5, 0.75)), atol=0.051)
    assert {"coronary", "defibrillator", "lvef_measured"} <= set(result["yes_no"])


def test_the_lockbox_is_described_where_the_study_says_so_and_trains_nobody():
    data = {site: columns_beside(site_data(i, 500)) for i, site in enumerate("abc", 1)}
    made = Federation(study([{"id": "who", "stage": "describe", "lockbox": True}]), data, DisclosureLimits())
    stored = made.run()["who"]
    result, d = stored.result, data["a"]
    rows = d.rows("lockbox")
    assert result["of_lockbox"]
    assert result["sites"]["a"]["ecgs"] == {"train": None, "validation": None, "lockbox": float(len(rows))}
    assert result["sites"]["a"]["table1"]["all"]["age"]["mean"] == pytest.approx(d.age[rows].mean(), rel=1e-5)
    assert stored.arrays == {}
    step = made.study.step("who")
    assert step.opens_lockbox
    assert step.reads_splits == ("lockbox",)
    assert not study([{"id": "who", "stage": "describe"}]).step("who").opens_lockbox
    with pytest.raises(ValueError, match="cannot use it for training"):
        study(
            [
                {"id": "who", "stage": "describe", "lockbox": True},
                {"id": "net", "stage": "train", "uses": ["who"], "heads": ["event"]},
            ]
        )
