"""The real recordings beside the checkout, opened as six hospitals from the site files of the examples."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from client.dataset.opening import open_site
from client.operator.check import check_site
from client.readers import read
from client.site.settings import QualityPolicy, load_site
from ecgshared.ecg.quality import assess, decide
from ecgshared.errors import EcgReadError
from ecgshared.study.study import load_study

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "deploy" / "examples" / "real"
REFUSED = ROOT / "tests" / "golden" / "refused_records.csv"


def refusal(path: Path, policy: QualityPolicy) -> str | None:
    """Why a site of the default policy does without a recording; None where it takes it."""
    try:
        findings = assess(read(path))
    except EcgReadError as error:
        return error.what
    if decide(findings, policy.actions, policy.default) != "refuse":
        return None
    return " ".join(sorted({f.code for f in findings if policy.actions.get(f.code, policy.default) == "refuse"}))


def test_all_records_are_read_but_those_on_the_committed_list(shared_data):
    with (shared_data / "records.csv").open(encoding="utf-8") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    assert len(names) == 1093
    policy = QualityPolicy()
    reasons = {name: refusal(shared_data / f"{name}.hea", policy) for name in names}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    with REFUSED.open(encoding="utf-8") as file:
        assert refused == {row["record"]: row["reason"] for row in csv.DictReader(file)}
    assert len(names) - len(refused) >= 1060


@pytest.mark.parametrize(
    ("site", "rows", "duplicates"), [("ptbxl0", 256, 0), ("ptbxl1", 161, 0), ("ptbxl2", 17, 0), ("ptbxl3", 66, 5)]
)
def test_ptbxl_sites_open_as_published(shared_data, tmp_path, site, rows, duplicates):
    """Five recordings of site 3 are, byte for byte, the signal of another of its records."""
    settings = load_site(EXAMPLES / f"{site}.yaml").model_copy(update={"state": tmp_path / site})
    data = open_site(settings, load_study(EXAMPLES / "sex.yaml"))
    assert data.flow[0][1] == rows
    assert len(data) == rows - duplicates
    assert [reason for (reason, ecgs, _), after in zip(data.flow[1:], data.flow, strict=False) if ecgs != after[1]] == (
        ["the same signal as an earlier row"] if duplicates else []
    )
    splits = [set(data.patient[data.rows(name)].tolist()) for name in ("train", "validation", "lockbox")]
    assert sum(len(split) for split in splits) == data.n_patients == len(set.union(*splits))
    assert not np.isnan(data.labels).any()
    assert 0.3 < data.labels.mean() < 0.7
    assert np.isfinite(data.batch(np.arange(len(data)))).all()


def test_a_site_without_patient_ids_makes_no_claim_about_patients(shared_data, tmp_path):
    settings = load_site(EXAMPLES / "antodono.yaml").model_copy(update={"state": tmp_path})
    data = open_site(settings, load_study(EXAMPLES / "sex.yaml"))
    assert not data.patients_known
    assert len(data) == len(data.rows("lockbox")) == 184


@pytest.mark.parametrize("site", ["ptbxl0", "ptbxl1", "ptbxl2", "ptbxl3", "ahus", "antodono"])
def test_example_sites_have_nothing_to_mend(shared_data, tmp_path, monkeypatch, site):
    def elsewhere(path):
        return load_site(path).model_copy(update={"state": tmp_path})

    monkeypatch.setattr("client.operator.check.load_site", elsewhere)
    found = check_site(EXAMPLES / f"{site}.yaml")
    assert found.faults == []
    assert "recordings without a row: 0" in found.notes
