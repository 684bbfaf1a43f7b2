# ---
# jupyter:
#   jupytext: {formats: "py:percent"}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Survival over hospitals
#
# A Cox model over the tables of three hospitals, by the sums that a federated study would send, held against the same
# model fitted by lifelines on all rows laid together.

# %%
from pathlib import Path

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter

import ecgfed

folder = Path("notebook-survival")
folder.mkdir()
rng = np.random.default_rng(5)
TRUE = {"age": 0.05, "male": 0.40, "ecg_risk": 0.60}
"""Log hazard ratios that the made patients follow."""


def hospital(n: int, hazard: float) -> pd.DataFrame:
    rows = pd.DataFrame({"age": rng.normal(64, 11, n), "male": rng.integers(0, 2, n), "ecg_risk": rng.normal(0, 1, n)})
    beta = TRUE["age"] * (rows["age"] - 64) + TRUE["male"] * rows["male"] + TRUE["ecg_risk"] * rows["ecg_risk"]
    time = rng.exponential(1 / (hazard * np.exp(beta)))
    end = rng.uniform(2, 7, n)
    return rows.assign(years=np.minimum(time, end), died=(time < end).astype(int))


tables = {"oslo": hospital(500, 0.06), "bergen": hospital(300, 0.10), "tromso": hospital(200, 0.04)}
pd.DataFrame({name: {"patients": len(t), "deaths": t["died"].sum()} for name, t in tables.items()}).T

# %% [markdown]
# ## One model, a baseline hazard for each hospital
#
# Hospitals differ in how ill their patients are; a baseline of its own takes that out of the hazard ratios.

# %%
question = {"time": "years", "event": "died", "covariates": list(TRUE)}
fitted = ecgfed.survival.fit(tables, **question)
print(fitted)

# %%
fitted.plot(folder / "forest.svg")
fitted.proportional_hazards

# %% [markdown]
# ## Equal to the pooled fit
#
# The rows are laid together for once, which no federation can do, to see that nothing was lost.

# %%
together = pd.concat([table.assign(site=name) for name, table in tables.items()])
pooled = CoxPHFitter().fit(together, "years", "died", strata=["site"])
beside = pd.DataFrame({"true": TRUE, "over hospitals": fitted.summary["log_hazard_ratio"], "pooled": pooled.params_})
print(beside.to_string(float_format="{:.6f}".format))
assert np.allclose(beside["over hospitals"], beside["pooled"], atol=1e-5)

# %% [markdown]
# ## What the ECG adds
#
# The model without it, on the same patients.

# %%
without = ecgfed.survival.fit(tables, time="years", event="died", covariates=["age", "male"])
for name, model in (("age and sex", without), ("with the ECG", fitted)):
    print(f"{name:<14} C-index {model.concordance['value']:.3f}")
assert fitted.concordance["value"] > without.concordance["value"]

# %% [markdown]
# In a study the same is a `survival` step: `ecgfed study init survival`.
