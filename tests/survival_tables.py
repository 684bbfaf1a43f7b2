"""Tables of survival times of our own making, in the likeness of a study of infarction: what oracles/survival.R reads.

Days are whole, so that many are tied; four sites of unequal size, case mix and censoring; deaths of two causes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

SITES = ("north", "south", "east", "west")


def patients(n: int = 500, seed: int = 11) -> pd.DataFrame:
    """One row a patient: entry, time (days), status (0 censored, 1 cardiac death, 2 another death) and covariates."""
    rng = np.random.default_rng(seed)
    site = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    age = np.round(rng.normal(68 + 2 * site, 12, n).clip(30, 99), 1)
    bmi = np.round(rng.normal(27, 5, n), 1)
    sex = np.where(rng.random(n) < 0.6, "M", "F")
    stage = rng.choice([1, 2, 3], n, p=[0.5, 0.3, 0.2])
    risk = 0.05 * (age - 68) - 0.04 * (bmi - 27) + 0.5 * (stage == 3)
    cardiac = rng.exponential(1500 / np.exp(risk)) * (1 + 0.4 * (sex == "M"))
    other = rng.exponential(4000 / np.exp(0.03 * (age - 68)))
    end = rng.uniform(100, 2400 - 300 * site, n)
    first = np.minimum(np.minimum(cardiac, other), end)
    time = np.ceil(first)
    status = np.where(end <= first, 0, np.where(cardiac <= first, 1, 2))
    # Days between the infarction and the day on which follow-up began: always before it ended.
    entry = np.floor(np.minimum(rng.integers(0, 60, n), time - 1))
    return pd.DataFrame(
        {
            "id": np.arange(n) + 1,
            "site": np.array(SITES)[site],
            "entry": entry.astype(int),
            "time": time.astype(int),
            "status": status,
            "age": age,
            "bmi": bmi,
            "sex": sex,
            "stage": stage,
            "weight": np.round(rng.uniform(0.5, 2.0, n), 2),
        }
    )


def start_stop(seed: int = 12) -> pd.DataFrame:
    """Rows of the same patients between changes of a marker: up to three each, some of them at another site."""
    rng, frames = np.random.default_rng(seed), []
    for row in patients().itertuples():
        cuts = np.unique([c for c in rng.integers(30, 900, 2) if c < row.time])
        edges = np.array([0, *cuts, row.time])
        rows = len(edges) - 1
        moved = rows > 1 and rng.random() < 0.2
        sites = [row.site] * (rows - 1) + [SITES[(SITES.index(row.site) + 1) % 4] if moved else row.site]
        frames.append(
            pd.DataFrame(
                {
                    "id": row.id,
                    "site": sites,
                    "start": edges[:-1].astype(int),
                    "stop": edges[1:].astype(int),
                    "death": [0] * (rows - 1) + [int(row.status == 1)],
                    "age": row.age,
                    "marker": np.round(rng.normal(0.02 * (row.age - 68), 1, rows), 2),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def write(folder: Path) -> None:
    """Write both tables, all sites in one file each."""
    folder.mkdir(parents=True, exist_ok=True)
    patients().to_csv(folder / "patients.csv", index=False)
    start_stop().to_csv(folder / "start_stop.csv", index=False)


def by_site(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Write one file a site; return them in the order of SITES."""
    paths = []
    for site in SITES:
        paths.append(folder / f"{site}.csv")
        frame[frame["site"] == site].drop(columns="site").to_csv(paths[-1], index=False)
    return paths


if __name__ == "__main__":
    import sys

    write(Path(sys.argv[1]))
