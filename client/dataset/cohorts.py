"""Opened cohorts: kept from request to request, and opened anew where anything they were made from changed."""

from __future__ import annotations

from client.dataset.data import SiteData
from client.dataset.generation import Generation
from client.dataset.opening import open_cohort
from client.dataset.remembered import Remembered
from client.ingest.reading import Progress
from client.site.current import wait_until_still
from client.site.settings import SiteSettings
from ecgshared.study.study import Study


class Cohort:
    """A site's ECGs under one study, and what models said of them.

    Attributes
    ----------
    data : its arrays.
    memory : of results; it goes with the cohort.
    """

    def __init__(self, data: SiteData, generation: Generation | None) -> None:
        self.data, self.memory = data, Remembered()
        self.generation = generation

    def is_now(self, settings: SiteSettings) -> bool:
        """Tell whether it is what an opening under ``settings`` would give now; one held in memory always is."""
        return self.generation is None or self.generation.is_now(settings)


class Cohorts:
    """The cohorts of one site in one process.

    Parameters
    ----------
    held : stands in memory in the place of files, under every study (the pooled twin of a simulation).
    """

    def __init__(self, held: SiteData | None = None) -> None:
        self._held = None if held is None else Cohort(held, None)
        self._opened: dict[str, Cohort] = {}

    def under(self, settings: SiteSettings, study: Study, *, progress: Progress | None = None) -> Cohort:
        """Return the cohort under a study as it is now; recordings not yet in the cache are read.

        Raises
        ------
        CohortError, RunError : as :func:`~client.dataset.opening.open_cohort`.
        """
        if self._held is not None:
            return self._held
        # All that is stale goes, of other studies too: this process forgets whom the site forgot.
        stale = [(sha256, cohort) for sha256, cohort in self._opened.items() if not cohort.is_now(settings)]
        for sha256, cohort in stale:
            del self._opened[sha256]
            for path in cohort.generation.changed_files() if cohort.generation is not None else ():
                wait_until_still(path)
        if study.sha256 not in self._opened:
            self._opened[study.sha256] = Cohort(*open_cohort(settings, study, progress=progress))
        return self._opened[study.sha256]

    def is_now(self, settings: SiteSettings, study: Study) -> bool:
        """Tell whether the cohort last handed out under a study is what would be handed out now."""
        cohort = self._held or self._opened.get(study.sha256)
        return cohort is not None and cohort.is_now(settings)
