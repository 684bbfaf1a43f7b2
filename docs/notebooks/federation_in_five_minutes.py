# ---
# jupyter:
#   jupytext: {formats: "py:percent"}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # A federation in five minutes
#
# Three hospitals that do not exist learn a risk model together, on this machine; a fourth, which never trained, judges
# it. The same study runs over a network without a change: then each site file lies at its hospital.

# %%
from pathlib import Path

import pandas as pd

import ecgfed

folder = Path("notebook-federation")
hospitals = ecgfed.make_hospitals("demo", folder / "hospitals", patients=900, seed=2)
pd.DataFrame({"patients": hospitals.patients, "ECGs": hospitals.ecgs})

# %% [markdown]
# A study from a template: what is predicted, of whom, by which net, in which steps. Two rounds are enough to see it
# work. The made hospitals' site files name `study.yaml` as the study that they approved; so it takes that name.

# %%
hospitals.study.unlink()
study = ecgfed.new_study("risk", hospitals.study, sites=["north", "coast", "valley", "island"], rounds=2)
print(study.name, [(step.id, step.stage) for step in study.steps])

# %%
run = ecgfed.simulate(hospitals.study, hospitals.sites, folder / "run")
print(run.report)

# %% [markdown]
# Every figure stands in the results too. A hospital tells of no group of fewer than 10 patients, or of fewer than 5
# with the event: such a figure is None, and the report says why.

# %%
judged = run.results["steps"]["judged"]["result"]["sites"]
rows = {}
for site, told in judged.items():
    for head, value in (told.get("heads") or {}).items():
        auc = value.get("auc") or {}
        rows[site, head] = {"ECGs": value["ecgs"], "events": value["events"], "AUC": auc.get("value")}
pd.DataFrame(rows).T

# %% [markdown]
# What left each hospital: every message, with its bytes and the cells that were withheld.

# %%
left = pd.read_json(run.folder / "releases.jsonl", lines=True)
left.groupby(["site", "step", "kind"])["bytes"].agg(["count", "sum"])

# %% [markdown]
# The model, applied to one recording of the hospital that never trained.

# %%
model = ecgfed.load_model(run.folder)
ecg = sorted((hospitals.folder / "sites" / "island").rglob("*.hea"))[0]
ecgfed.predict(model, ecg, given={"age": 67, "male": 1})
