"""Recipes, hospitals alone and one left out in one study of a few lines, run and shown."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from client.dataset.opening import open_site
from client.site.settings import load_site
from ecgshared.learning.layout import Layout
from ecgshared.study.study import load_study
from server.report.html import render
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate


def test_a_study_of_a_few_lines_compares_recipes_and_hospitals(federation):
    train = federation.train(rounds=1, heads=["death_2y"])
    steps = [{"id": "cohorts", "stage": "describe"}, train]
    steps.append(train | {"id": "prox", "strategy": {"name": "fedprox"}, "local": train["local"] | {"prox_mu": 0.1}})
    study_file = federation.study(
        steps=steps,
        split={"train": 0.4, "validation": 0.2, "lockbox": 0.4},
        compare={"recipes": {"steps": ["risk", "prox"], "each_alone": True}},
        leave_one_out={"unseen": {"step": "risk"}},
    )
    files = federation.sites()
    run = simulate(study_file, files, federation.folder / "run")
    folder = RunFolder.reopen(run)
    folder.close()
    study = load_study(study_file)
    recipes = folder.artefact("recipes").result
    assert recipes.others == ("prox.death_2y", *(f"risk_alone_{s}.death_2y" for s in ("north", "coast", "valley")))
    assert set(recipes.pooled) == {"training", "zero_shot"}
    weights = {s: folder.artefact(s).arrays["weights"] for s in ("risk", "risk_without_north", "risk_alone_north")}
    assert (weights["risk"] != weights["risk_without_north"]).any()
    for site in ("north", "coast", "valley"):
        left_out = folder.artefact(f"unseen_{site}").result
        assert set(left_out.sites) == {site}
        assert study.members(study.step(f"risk_without_{site}")) == tuple(
            s for s in ("north", "coast", "valley") if s != site
        )
    # The AUC of the net that never saw north, at north's lockbox, from the kept weights and nothing else of ours.
    data = open_site(load_site(files[0]), study)
    rows = data.rows("lockbox")
    y = data.labels[rows, data.heads.index("death_2y")]
    rows, y = rows[~np.isnan(y)], y[~np.isnan(y)]
    found = folder.artefact("unseen_north").result.sites["north"].pairs["death_2y"]["risk_without_north.death_2y"]
    expected = roc_auc_score(y, logits(folder, study, data, rows))
    np.testing.assert_allclose(found.other_auc.value, expected, atol=1e-6)
    np.testing.assert_allclose(found.difference.value, found.auc.value - found.other_auc.value, atol=1e-12)
    page = render(run).read_text(encoding="utf-8")
    assert "Together: unseen" in page
    assert "unseen: coast left out" in page
    assert "risk, north alone" in page


def logits(folder, study, data, rows):
    import torch

    from ecgshared.models import build
    from ecgshared.stages.train_net import head_specs

    step, arrays = study.step("risk_without_north"), folder.artefact("risk_without_north").arrays
    net = build(step.model, head_specs(step, study), study.input.samples, study.seed, torch.float32)
    Layout.of(net, step.layout_mode).load(net, arrays["weights"])
    mean, sd = arrays["standardise"].T
    side = np.stack([(data.age[rows] - mean[0]) / sd[0], (data.male[rows] - mean[1]) / sd[1]], axis=1)
    net.eval()
    with torch.no_grad():
        out = net(torch.from_numpy(data.batch(rows)), torch.from_numpy(side.astype(np.float32)))
    return out.numpy()[:, 0]
