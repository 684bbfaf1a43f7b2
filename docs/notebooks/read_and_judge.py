# ---
# jupyter:
#   jupytext: {formats: "py:percent"}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Read and judge an ECG
#
# One recording: read, drawn, measured; then spoilt in three ways that hospitals know, and each of them found.
# Nothing is downloaded: the recording is of a made hospital. Put your own file's name into `path` and go on.

# %%
from dataclasses import replace
from pathlib import Path

import numpy as np

import ecgfed

folder = Path("notebook-read")
hospitals = ecgfed.make_hospitals("demo", folder / "hospitals", patients=40, seed=1)
path = sorted((hospitals.folder / "sites" / "north").rglob("*.hea"))[0]
record = ecgfed.read(path)
print(record.fs, "Hz", record.p_signal.shape, record.sex, record.age_years, record.device)

# %% [markdown]
# Twelve leads in millivolts, always in the order I, II, III, aVR, aVL, aVF, V1 to V6, whatever the file's own order.
# The sheet is drawn at 25 mm/s and 10 mm/mV.

# %%
figure = ecgfed.plot(record, folder / "sheet.png", title="as recorded")

# %% [markdown]
# What is wrong with it, and what a site's default policy does about it. No row is nothing found.

# %%
ecgfed.quality(record)

# %% [markdown]
# Rate, intervals, axes and amplitudes of the median beat.

# %%
measured = ecgfed.features(record)
measured[["rate_bpm", "pr_ms", "qrs_ms", "qt_ms", "qrs_axis_deg"]]

# %% [markdown]
# ## Three faults
#
# **The arms exchanged**: lead I upside down, II and III changed places, aVR and aVL too.

# %%
exchanged = record.p_signal[[0, 2, 1, 4, 3, 5, *range(6, 12)]].copy()
exchanged[0] *= -1
found = ecgfed.quality(replace(record, p_signal=exchanged))
print(found[["code", "lead", "action", "message"]].to_string())
assert "reversed-ra-la" in set(found["code"])

# %% [markdown]
# **An electrode that fell off** after six seconds: V3 is flat from there.

# %%
fallen = record.p_signal.copy()
fallen[8, int(6 * record.fs) :] = 0
found = ecgfed.quality(replace(record, p_signal=fallen))
print(found[["code", "lead", "action", "message"]].to_string())
assert "V3" in set(found["lead"])

# %% [markdown]
# **A wrong unit**: microvolts taken for millivolts. What would make a heart of it is said.

# %%
found = ecgfed.quality(replace(record, p_signal=(record.p_signal * 1000).astype(np.float32)))
print(found[["code", "lead", "action", "message"]].to_string())
assert "stale-gain" in set(found["code"])

# %% [markdown]
# ## What a model sees
#
# The same code as a hospital's `input:` brings a recording to a model's rate, length and band.

# %%
seen = ecgfed.preprocess(record, fs_hz=100, seconds=8, band_hz=(0.5, 40))
print(seen.shape, seen.dtype, f"{np.abs(seen).max():.2f} mV at most")
