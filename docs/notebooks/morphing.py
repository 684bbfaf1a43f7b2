# ---
# jupyter:
#   jupytext: {formats: "py:percent"}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Morphing
#
# What does a net see in a beat? Train a net of single beats and an autoencoder of beats over hospitals, move low-risk
# beats to high risk within what the autoencoder can make, and look at what changed. Means over groups leave a hospital;
# a single person's morph is shown at the site alone.
#
# The nets here are tiny and the hospitals small, so that it takes a minute: `simulations/scenarios/morph_study.yaml` is
# the study at its size.

# %%
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

import ecgfed

folder = Path("notebook-morphing")
hospitals = ecgfed.make_hospitals("demo", folder / "hospitals", patients=600, seed=6)

# %%
shared = {"stage": "train", "rounds": 2, "local": {"epochs": 2, "batch_size": 16}}
fast = {"name": "adam", "lr": 5.0e-3, "schedule": {"kind": "cosine", "warmup_rounds": 1}}
net = {"name": "beat_risk", "blocks": 1, "width": 8, "groups": 2, "hidden": 8}
vae = {"name": "beat_vae", "preset": "small", "latent": 6, "hidden": 16, "risk": "net.death_2y"}
content = {
    "name": "morphs",
    "seed": 5,
    "sites": {"train": ["north", "coast", "valley"], "zero_shot": ["island"]},
    "input": {"fs_hz": 100, "seconds": 8, "band_hz": [0.5, 40]},
    "endpoints": {"death_2y": {"kind": "time_to_event", "event": "death", "horizon_years": 2}},
    "split": {"train": 0.4, "validation": 0.6, "lockbox": 0.0},
    "steps": [
        {"id": "cohorts", "stage": "describe"},
        {"id": "net", "uses": ["cohorts"], "model": net, "heads": ["death_2y"], "optimiser": fast, **shared},
        {"id": "vae", "uses": ["cohorts", "net"], "model": vae, "optimiser": fast, **shared},
        {
            "id": "moved",
            "stage": "morph",
            "uses": ["net", "vae"],
            "risk": "net.death_2y",
            "steps": 40,
            "rate": 0.5,
        },
    ],
}
hospitals.study.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
run = ecgfed.simulate(hospitals.study, hospitals.sites, folder / "run")

# %% [markdown]
# The risk that the net sees along the way, in the mean over the hospitals' low-risk beats; then what changed most, by
# lead.

# %%
moved = run.results["steps"]["moved"]["result"]["pooled"]["up"]["training"]
path = pd.DataFrame(moved["path"])
print(path.to_string())
assert path["mean"].iloc[-1] > path["mean"].iloc[0]

# %%
leads = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
change = np.abs(np.array(moved["end_uv"], float) - np.array(moved["start_uv"], float))
pd.Series(np.nanmax(change, axis=1), index=leads, name="largest change, uV").sort_values(ascending=False)

# %% [markdown]
# One person's own beat, at the site: pictures that nobody but the operator may read, and nothing among the releases.

# %%
site = hospitals.sites[0]
settings = yaml.safe_load(site.read_text(encoding="utf-8"))["table"]
table = pd.read_csv(
    site.parent / settings["path"], sep=settings.get("separator", ","), encoding=settings.get("encoding")
)
for person in table[settings["columns"]["patient_id"]].unique()[:20]:
    line = f"site morph {site} {run.folder} --patient {person} --out {folder / 'pictures'}"
    done = subprocess.run(
        [sys.executable, "-m", "ecgfed", *shlex.split(line)], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        print(done.stdout)
        break
assert "nothing was sent" in done.stdout
