"""A fit whose members change: sums before and after are not of the same data, so it begins anew with those it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ecgshared.errors import RunError

T = TypeVar("T")

_CHANCES = 2
"""Times a site may be lost in one fit before it is left out for good."""


class MembersChanged(Exception):
    """A member is missing; raised through the solver, and caught by :meth:`Members.fit` alone."""


class NobodyLeft(RunError):
    """Every site withheld what a fit takes, or was lost too often."""


class Members:
    """The sites whose data a fit is of, as they drop out, are withheld, and come back.

    A site that answered and withheld its sums is out: it would withhold them again. One that was lost is left out of
    what begins then, and asked once more when the fit begins anew for another's sake, or for want of anybody.

    Parameters
    ----------
    sites : asked at first, in the order in which sums are added.
    what : is fitted, for the error's words.
    """

    def __init__(self, sites: Sequence[str], what: object) -> None:
        self._sites, self._what = tuple(sites), what
        self.now: tuple[str, ...] = self._sites
        self._lost: Counter[str] = Counter()
        self._withheld: set[str] = set()

    def all_of(self, found: Mapping[str, T | None]) -> dict[str, T]:
        """Return the sums of every member, in order.

        Parameters
        ----------
        found : by site; None where it answered and withheld them, without an entry where it did not answer.

        Raises
        ------
        MembersChanged : one is missing; the members are now others.
        """
        sums = {site: s for site in self.now if (s := found.get(site)) is not None}
        if len(sums) == len(self.now):
            return sums
        lost = {site for site in self.now if site not in found}
        self._lost.update(lost)
        self._withheld.update(site for site in self.now if site in found and found[site] is None)
        able = [site for site in self._sites if site not in self._withheld and self._lost[site] < _CHANCES]
        self.now = tuple(site for site in able if site not in lost) or tuple(able)
        raise MembersChanged

    def fit(self, once: Callable[[], T]) -> T:
        """Call ``once``, which asks :attr:`now`, until no member is missing; :attr:`now` is then whose data it is of.

        Raises
        ------
        NobodyLeft : of the sites.
        """
        while self.now:
            try:
                return once()
            except MembersChanged:
                continue
        raise NobodyLeft("no site may give the sums of this fit", value=self._what, remedy="see who withheld and why")
