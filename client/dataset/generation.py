"""What a cohort was made from, and whether that is still so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.cache.generation import CacheGeneration
from client.cohort.optout import OPT_OUT_FILE
from client.site.current import FileMark
from client.site.keys import SITE_KEY
from client.site.settings import SiteSettings

_NO_MATTER = ("limits", "privacy", "studies", "network")
"""Sections of the site file that no cohort is made from. Whatever else is added to the file counts as one."""


@dataclass(frozen=True)
class Generation:
    """The state of a site's files that a cohort was opened at.

    Attributes
    ----------
    settings : of the site file at that time.
    files : looked at before they were read, so that a change in between shows.
    cache : the state it was left in.
    """

    settings: SiteSettings
    files: tuple[FileMark, ...]
    cache: CacheGeneration

    def is_now(self, settings: SiteSettings) -> bool:
        """Tell whether a cohort opened now, under ``settings``, would be made from the same."""
        same = settings is self.settings or _made_from(settings) == _made_from(self.settings)
        return same and not self.changed_files() and self.cache.is_now()

    def changed_files(self) -> list[Path]:
        """Return the files that hold another thing by now."""
        return [mark.path for mark in self.files if mark.changed()]


def marks(settings: SiteSettings) -> tuple[FileMark, ...]:
    """Look at every file but the recordings that a cohort is made from."""
    state = settings.state
    named = (settings.table.path, settings.exclude, state / OPT_OUT_FILE, state / SITE_KEY, settings.consortium_key)
    return tuple(FileMark(path) for path in named if path is not None)


def _made_from(settings: SiteSettings) -> dict[str, object]:
    return settings.model_dump(exclude=set(_NO_MATTER))
