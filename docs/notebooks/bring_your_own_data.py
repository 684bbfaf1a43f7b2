# ---
# jupyter:
#   jupytext: {formats: "py:percent"}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Bring your own data
#
# From a folder of recordings and a table in a hospital's own words to a site that answers studies. Here both are made,
# and the table is as tables are: German headings, semicolons, decimal commas, days first, sex as m and w.

# %%
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

import ecgfed

folder = Path("notebook-own-data")
made = ecgfed.make_hospitals("demo", folder / "made", patients=160, seed=3)


def command(line: str) -> str:
    """Type a command as in a terminal; return what it prints."""
    words = [sys.executable, "-m", "ecgfed", *shlex.split(line)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    return done.stdout


# %% [markdown]
# ## The table
#
# One row an ECG. It needs an identity of the patient, the file or the ECG's number, and whatever the studies ask for.

# %%
source = made.folder / "sites" / "north"
own = folder / "hospital"
own.mkdir()
(source / "records").rename(own / "ekg")
table = pd.read_csv(source / "cohort.csv", sep=None, engine="python")
print(table.columns.tolist())

# %%
columns = yaml.safe_load((source / "site.yaml").read_text(encoding="utf-8"))["table"]["columns"]
words = {
    "patient_id": "Patientennummer",
    "file": "Datei",
    "age": "Alter",
    "sex": "Geschlecht",
    "recorded_at": "Aufnahmedatum",
    "death_date": "Todesdatum",
}
mine = table[[columns[name] for name in words]].set_axis(list(words.values()), axis=1)
mine["Geschlecht"] = mine["Geschlecht"].map(lambda value: "m" if str(value).lower()[0] in "m1" else "w")
for name in ("Aufnahmedatum", "Todesdatum"):
    mine[name] = pd.to_datetime(mine[name], format="mixed").dt.strftime("%d.%m.%Y %H:%M")
mine.to_csv(own / "kohorte.csv", sep=";", decimal=",", index=False, encoding="cp1252")
mine.head(3)

# %% [markdown]
# ## The site file
#
# `site init` looks at folder and table, writes what it takes them for, marks what it guessed, and asks what it could
# not decide.

# %%
told = command(
    f"ecgfed site init --folder {own / 'ekg'} --table {own / 'kohorte.csv'} --site klinik --out {own / 'site.yaml'}"
)
assert "Geschlecht" in told

# %%
print((own / "site.yaml").read_text(encoding="utf-8")[:1800])

# %% [markdown]
# ## All that is wrong, at once
#
# `site check` reads the table and a sample of recordings, and changes nothing.

# %%
told = command(f"ecgfed site check {own / 'site.yaml'}")
assert "all is well" in told

# %% [markdown]
# Every recording is read once, into a cache of the site's own, with a quality report that stays here.

# %%
command(f"ecgfed site ingest {own / 'site.yaml'} --all")
assert (own / "state" / "ingest" / "quality.html").exists()

# %% [markdown]
# ## A study, in plain words
#
# What would run here, about which groups, and what would leave at each step. Approving it is the next command, and the
# site's only.

# %%
command(f"ecgfed study init risk --out {folder / 'study.yaml'} --site klinik --site coast --site island")
command(f"ecgfed site ingest {own / 'site.yaml'} --study {folder / 'study.yaml'}")
told = command(f"ecgfed site show {own / 'site.yaml'} {folder / 'study.yaml'}")
assert "leaves" in told
