"""Studies and site files over small in-silico hospitals, for tests that run a whole federation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SITES = ("north", "coast", "valley", "island")


class SmallFederation:
    """Writes studies and site files for one test; the recordings are shared, every site's state is the test's own."""

    def __init__(self, hospitals: Path, folder: Path) -> None:
        self.hospitals, self.folder = hospitals, folder

    def study(self, **changes: Any) -> Path:
        """Write a study: describe and two rounds of a tiny model; ``changes`` replace top-level keys."""
        content = {
            "name": "tiny",
            "seed": 5,
            "sites": {"train": list(SITES[:3]), "zero_shot": [SITES[3]]},
            "input": {"fs_hz": 100, "seconds": 4, "band_hz": [0.5, 40]},
            "endpoints": {
                "scd_2y": {"kind": "time_to_event", "event": "scd", "horizon_years": 2},
                "death_2y": {"kind": "time_to_event", "event": "death", "horizon_years": 2},
                "male": {"kind": "binary", "column": "male"},
            },
            "split": {"train": 0.6, "validation": 0.2, "lockbox": 0.2},
            "federation": {"quorum": "all", "deadline_seconds": 120, "retries": 0},
            "steps": [{"id": "cohorts", "stage": "describe"}, self.train()],
        } | changes
        path = self.folder / "study.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path

    @staticmethod
    def train(**changes: Any) -> dict[str, Any]:
        """Return a train step of a tiny model."""
        return {
            "id": "risk",
            "stage": "train",
            "uses": ["cohorts"],
            "heads": ["scd_2y", "death_2y"],
            "model": {"blocks": 1, "width": 8, "groups": 2, "hidden": 8, "dropout": 0.0},
            "rounds": 2,
            "local": {"epochs": 1, "batch_size": 32},
            "optimiser": {"name": "sgd", "lr": 0.05},
        } | changes

    def sites(
        self, names: tuple[str, ...] = SITES, *, lacks: dict[str, tuple[str, ...]] | None = None, **changes: Any
    ) -> list[Path]:
        """Write site files whose state lies in the test's folder.

        ``lacks`` takes columns from a site's mapping; ``changes`` replace keys at every site.
        """
        files = []
        for name in names:
            original = self.hospitals / "sites" / name
            content = yaml.safe_load((original / "site.yaml").read_text(encoding="utf-8"))
            content["records"]["folder"] = str(original / content["records"]["folder"])
            content["table"]["path"] = str(original / content["table"]["path"])
            for column in (lacks or {}).get(name, ()):
                del content["table"]["columns"][column]
            content["table"]["values"] = {
                key: value
                for key, value in content["table"].get("values", {}).items()
                if key in content["table"]["columns"] or key in content["table"].get("declared", {})
            }
            content |= {
                "state": str(self.folder / "state" / name),
                "studies": [str(self.folder / "study.yaml"), str(self.folder / "twin" / "study.yaml")],
                "limits": {"min_patients": 1, "min_events": 0},
                "seed": 11,
                "privacy": {"weights": "plain"},
            }
            content |= changes
            path = self.folder / f"{name}.yaml"
            path.write_text(yaml.safe_dump(content), encoding="utf-8")
            files.append(path)
        return files
