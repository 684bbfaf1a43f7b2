# ---
# jupyter:
#   jupytext: {formats: "py:percent"}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Private training
#
# Weights can give away ECGs of single patients. Training with noise bounds what anybody learns of one patient from
# them: epsilon says how much. Here: what it costs before anybody trains, and a small model with and without it.

# %%
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

import ecgfed

folder = Path("notebook-private")
hospitals = ecgfed.make_hospitals("demo", folder / "hospitals", patients=1200, seed=4)

# %% [markdown]
# ## Before training
#
# The noise that fifteen full-batch steps need, for three budgets. It is a multiple of the most that one patient may
# move the gradient; the gradient is a sum over all patients. So the more patients, the less the same noise hides.


# %%
def noise(epsilon: float) -> float:
    words = ["privacy", "noise", "--epsilon", epsilon, "--sample-rate", 1, "--steps", 15, "--delta", 1e-4, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "ecgfed", *map(str, words)], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout)["noise_multiplier"])


pd.Series({epsilon: noise(epsilon) for epsilon in (1, 3, 8)}, name="noise").rename_axis("epsilon")

# %% [markdown]
# ## A head on fixed features
#
# A deep net from scratch needs more patients than a few hospitals have (`docs/models.md` tells what was measured). A
# linear head on fixed features of the wave has 38 numbers to learn, and can be learned under noise. The same step
# twice: once under `privacy:`, once without. A site refuses the latter on a network; these made ones allow it in their
# files.

# %%
head = {
    "stage": "train",
    "uses": ["cohorts"],
    "heads": ["male"],
    "model": {"name": "waves", "covariates": ["age"]},
    "rounds": 15,
    "local": {"steps": 1},
    "optimiser": {"name": "sgd", "lr": 2.0, "schedule": {"kind": "constant"}},
}
budget = {"epsilon": 8, "delta": 1e-4, "max_grad_norm": 0.5, "expected_batch_size": 1000}
content = {
    "name": "private",
    "seed": 5,
    "sites": {"train": ["north", "coast", "valley"], "zero_shot": ["island"]},
    "input": {"fs_hz": 100, "seconds": 8, "band_hz": [0.5, 40]},
    "endpoints": {"male": {"kind": "binary", "column": "male", "label": "male sex"}},
    "split": {"train": 0.7, "validation": 0.1, "lockbox": 0.2},
    "steps": [
        {"id": "cohorts", "stage": "describe"},
        {"id": "private", **head, "privacy": budget},
        {"id": "plain", **head, "local": {"epochs": 1, "batch_size": 64}},
        {"id": "judged_private", "stage": "evaluate", "uses": ["private"], "score": "private.male"},
        {"id": "judged_plain", "stage": "evaluate", "uses": ["plain"], "score": "plain.male"},
    ],
}
hospitals.study.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
run = ecgfed.simulate(hospitals.study, hospitals.sites, folder / "run")

# %% [markdown]
# What was spent, by site, and what both know of a hospital that never trained.

# %%
steps = run.results["steps"]
print(json.dumps(steps["private"]["result"]["privacy"]["sites"], indent=1)[:900])
aucs = {
    name: steps[f"judged_{name}"]["result"]["sites"]["island"]["heads"]["male"]["auc"]["value"]
    for name in ("private", "plain")
}
print(aucs)
assert all(spent["epsilon_spent"] <= 8 for spent in steps["private"]["result"]["privacy"]["sites"].values())

# %% [markdown]
# Each hospital keeps the account of all studies together and refuses what would exceed its cap: `ecgfed site budget`.
