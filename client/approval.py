"""A site runs only studies it holds and approved: the site's own copy is the configuration."""

from __future__ import annotations

from client.settings import SiteSettings
from ecgshared.errors import ConfigError, RefusalCode, Refused
from ecgshared.study import Study, load_study


def approved_study(settings: SiteSettings, study_hash: str) -> Study:
    """Return the approved study of this hash; raise :class:`Refused` where the site holds none."""
    for study in readable_studies(settings):
        if study.sha256 == study_hash:
            if settings.site not in study.sites.all:
                raise Refused(RefusalCode.NOT_A_MEMBER, f"the study does not name site {settings.site!r}")
            return study
    raise Refused(
        RefusalCode.STUDY_NOT_APPROVED,
        "no approved study has this hash",
        value=study_hash,
        remedy="add the study's file to `studies:` in the site file once it is approved",
    )


def readable_studies(settings: SiteSettings) -> list[Study]:
    """Return the approved studies whose files can be read; a broken one must not keep the others from running."""
    studies = []
    for path in settings.studies:
        try:
            studies.append(load_study(path))
        except ConfigError:
            continue  # `ecgfed site check` names it; a study that cannot be read is not approved
    return studies
