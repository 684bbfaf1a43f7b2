"""A study on made hospitals that declares columns: a population, a covariate, a term and a compared score of them."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from client.dataset.opening import open_site
from client.site.settings import load_site
from ecgshared.study.study import load_study
from server.report.html import render
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

COLUMNS = {
    "acc_score": {"kind": "number", "range": [0, 100], "unit": "%", "label": "AHA/ACC risk score"},
    "troponin": {"kind": "number", "range": [0, 10000], "unit": "ng/L"},
    "beta_blocker": {"kind": "flag", "label": "takes a beta-blocker"},
    "smoking": {"kind": "category", "levels": ["never", "former", "current"]},
}


def test_a_study_uses_what_it_declares(federation):
    judged = {"id": "judged", "stage": "evaluate", "uses": ["risk"], "score": "risk.death_2y", "sites": ["island"]}
    judged |= {"population": "untreated", "compare": ["acc_score", "-lvef", "troponin"]}
    judged |= {"subgroups": ["sex", "smoking", "troponin>=14", "lvef<=0.5"]}
    model = {"name": "m", "terms": ["acc_score>=20", "beta_blocker", "age"]}
    fit = {"id": "fit", "stage": "regress", "uses": ["risk"], "outcome": "death_2y", "models": [model]}
    study_file = federation.study(
        columns=COLUMNS,
        covariates=["acc_score", "lvef"],
        populations={"untreated": {"label": "no beta-blocker", "where": {"beta_blocker": False}}},
        steps=[{"id": "cohorts", "stage": "describe"}, federation.train(rounds=1), judged, fit],
    )
    files = federation.sites()
    run = simulate(study_file, files, federation.folder / "run")
    folder = RunFolder.reopen(run)
    folder.close()
    study, island = load_study(study_file), open_site(load_site(files[3]), load_study(study_file))
    assert set(np.unique(island.columns["smoking"][~np.isnan(island.columns["smoking"])])) == {0, 1, 2}
    # The hospital called valley maps none of them; it still takes part in what needs none.
    valley = open_site(load_site(files[2]), study)
    assert all(np.isnan(valley.columns[name]).all() for name in COLUMNS)
    y = island.labels[:, island.heads.index("death_2y")]
    found = folder.artefact("judged").result.sites["island"].heads["death_2y"].compared
    for name, score in (
        ("acc_score", island.columns["acc_score"]),
        ("-lvef", -island.covariates["lvef"].astype(np.float64)),
        ("troponin", island.columns["troponin"]),
    ):
        of = (island.columns["beta_blocker"] == 0) & ~np.isnan(y) & ~np.isnan(score)
        assert found[name].ecgs == of.sum()
        np.testing.assert_allclose(found[name].other_auc, roc_auc_score(y[of], score[of]), rtol=1e-12)
    apart = folder.artefact("judged").result.sites["island"].heads["death_2y"].subgroups
    known = (island.columns["beta_blocker"] == 0) & ~np.isnan(y)
    troponin = island.columns["troponin"].astype(np.float32)
    for name, inside in (
        ("smoking: never", island.columns["smoking"] == 0),
        ("smoking: current", island.columns["smoking"] == 2),
        ("smoking unknown", np.isnan(island.columns["smoking"])),
        ("troponin >= 14", troponin >= 14),
        ("not troponin >= 14", troponin < 14),
        ("lvef unknown", np.isnan(island.covariates["lvef"])),
    ):
        assert apart[name].ecgs in (None, (known & inside).sum()), name
    # Levels that are large enough are told, and their numbers with those withheld never exceed everybody's.
    assert sum(apart[f"smoking: {level}"].ecgs is not None for level in COLUMNS["smoking"]["levels"]) >= 2
    coefficients = folder.artefact("fit").result
    assert "valley" not in str(coefficients.model_dump().get("pooled", ""))
    page = render(run).read_text(encoding="utf-8")
    assert "AHA/ACC risk score" in page
    assert "(the lower, the riskier)" in page
    assert "smoking: current" in page
