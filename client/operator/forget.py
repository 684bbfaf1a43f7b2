"""Removing a person from everything the site keeps of its own: caches, their indices, and future cohorts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from client.cache.signals import forget_everywhere
from client.cohort.cells import normal_id
from client.cohort.link import OPT_OUT_FILE, opted_out
from client.ingest.register import ledger_exists, opened_ledger
from client.site.keys import load_keys
from client.site.settings import SiteSettings
from ecgshared.errors import CohortError
from ecgshared.service.files import append_line, private_folder


@dataclass(frozen=True)
class Forgotten:
    """What was done: ECGs removed from how many caches, and whether the person was on the list before."""

    ecgs: int
    caches: int
    known_before: bool


def forget_patient(settings: SiteSettings, patient_id: str, *, waiting: Callable[[], None] | None = None) -> Forgotten:
    """Put a person on the opt-out list, then overwrite and drop their signals in every cache.

    The list keeps a pseudonym, not the id. It is written first: cut short, the next opening of the site ends
    the work. ``waiting`` is called about once a second while another process of this site holds a cache.
    """
    name = normal_id(patient_id)
    if not name:
        raise CohortError("give a patient id")
    private_folder(settings.state)
    keys = load_keys(settings)
    pseudonym = keys.patient(name)
    before = pseudonym in opted_out(settings, keys)
    if not before:
        append_line(settings.state / OPT_OUT_FILE, pseudonym.hex())
    removed = forget_everywhere(settings.state / "cache", [pseudonym], waiting=waiting)
    if ledger_exists(settings.state):
        with opened_ledger(settings.state) as ledger:
            ledger.forget([pseudonym])
    return Forgotten(sum(removed), sum(count > 0 for count in removed), before)
