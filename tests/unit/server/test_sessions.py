"""Sessions of sites' daemons: what follows its predecessor is let in, what stands beside it is a copy."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from client.network.session import next_session, note_shown, place_of
from ecgshared.errors import ConfigError
from server.coordinator import sessions
from server.coordinator.sessions import Opening, Sessions


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        seconds = 1000.0

        def monotonic(self) -> float:
            return self.seconds

    made = Clock()
    monkeypatch.setattr(sessions.time, "monotonic", made.monotonic)
    return made


@pytest.fixture
def held(tmp_path, clock):
    return Sessions(tmp_path)


def opening(number: int, token: str, before: str = "", place: str = "here") -> Opening:
    return Opening(number, token, before, place)


def test_each_start_follows_the_one_before(held):
    for before, token in pairwise(["", "a", "b", "c"]):
        assert held.open("oslo", opening(" abc".index(token), token, before)) == "open"
        assert held.is_current("oslo", token)
        assert not held.is_current("oslo", before or "x")


def test_a_start_that_was_not_told_is_shown_again(held):
    assert held.open("oslo", opening(1, "a")) == "open"
    assert held.open("oslo", opening(1, "a")) == "open"


def test_a_copy_beside_a_living_original_is_refused_and_noted(held, clock):
    held.open("oslo", opening(4, "d"))
    assert held.is_current("oslo", "d")
    assert held.open("oslo", opening(5, "x", "d", "elsewhere")) == "wait"
    clock.seconds += 1
    assert held.is_current("oslo", "d"), "the original goes on"
    clock.seconds += 1
    assert held.open("oslo", opening(5, "x", "d", "elsewhere")) == "forked"
    assert held.is_current("oslo", "d")
    (fork,) = held.forks().values()
    assert (fork["times"], fork["number"], fork["beside"]) == (1, 5, 4)


def test_a_site_that_moved_is_let_in_once_its_old_place_is_silent(held, clock):
    held.open("oslo", opening(4, "d"))
    held.is_current("oslo", "d")
    clock.seconds += 5
    assert held.open("oslo", opening(5, "e", "d", "elsewhere")) == "wait"
    clock.seconds += 10
    assert held.open("oslo", opening(5, "e", "d", "elsewhere")) == "wait"
    clock.seconds += 11
    assert held.open("oslo", opening(5, "e", "d", "elsewhere")) == "open"
    assert not held.is_current("oslo", "d"), "the old place, should it come back"
    assert held.open("oslo", opening(5, "f", "d")) == "forked"


def test_an_old_backup_and_a_state_that_was_lost_are_not_the_site(held):
    for number, token in enumerate("abcd", start=1):
        held.open("oslo", opening(number, token, " abcd"[number - 1].strip()))
    assert held.open("oslo", opening(3, "x", "b")) == "forked"
    assert held.open("oslo", opening(1, "y")) == "forked"
    assert held.is_current("oslo", "d")
    held.accept("oslo")
    assert held.open("oslo", opening(3, "x", "b")) == "open"
    with pytest.raises(ConfigError, match="no session of this site"):
        held.accept("bergen")


def test_a_coordinator_that_was_restored_knows_less_than_its_sites(held):
    held.open("oslo", opening(4, "d"))
    assert held.open("oslo", opening(9, "i", "h")) == "open"


def test_sessions_last_and_other_sites_are_others(held, tmp_path):
    held.open("oslo", opening(1, "a"))
    again = Sessions(tmp_path)
    assert not again.is_current("oslo", "x")
    assert again.is_current("oslo", "a")
    assert again.is_current("bergen", ""), "Flower's own SuperNode opens none"
    assert again.open("oslo", opening(2, "b", "x")) == "forked"


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        *(
            {"number": 1, "token": "a", "before": "", "place": "p"} | wrong
            for wrong in (
                {"number": 0},
                {"number": True},
                {"token": ""},
                {"token": "a b"},
                {"token": "a" * 65},
                {"x": 1},
            )
        ),
    ],
)
def test_what_is_no_opening_is_none(content):
    assert Opening.read(content) is None


def test_a_sites_sessions_are_on_its_disk_before_they_are_shown(tmp_path):
    state = tmp_path / "state"
    first = next_session(state)
    assert next_session(state) == first, "killed before it was let in: the same is shown again"
    note_shown(state, first)
    second = next_session(state)
    assert (second.number, second.before) == (2, first.token)
    note_shown(state, second)
    file = state / "network" / "session.json"
    kept = json.loads(file.read_text())
    file.write_text("{")
    assert next_session(state).before not in (kept["token"], ""), "a damaged one follows nothing"


def test_a_folder_and_its_copy_are_two_places(tmp_path):
    for name in ("state", "copy"):
        (tmp_path / name).mkdir()
    assert place_of(tmp_path / "state") == place_of(tmp_path / "state")
    assert place_of(tmp_path / "state") != place_of(tmp_path / "copy")
