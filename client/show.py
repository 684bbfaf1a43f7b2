"""A study in plain words: what it would run at this site, what would leave at each step, and under which limits."""

from __future__ import annotations

from client.settings import SiteSettings
from ecgshared.study import Study


def show_study(settings: SiteSettings, study: Study) -> list[str]:
    """Return the lines."""
    return [f"study {study.name}, {study.sha256}"]
