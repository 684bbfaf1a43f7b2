"""Slots of the cache: whoever holds an old map sees the signal that was there, or zeros; nobody else, ever."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.cache.entries import REFUSED, STORED, Entry
from client.cache.signals import forget_everywhere, opened
from client.cache.slots import SlotFile

T = 8


def signal(number):
    return np.full((12, T), number, dtype=np.int16)


def entry(record, number, patient=b"p"):
    stored = number is not None
    return Entry(
        record, patient, 1, number or 1, 1, STORED if stored else REFUSED, signal=signal(number) if stored else None
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "x"


def slots_of(store):
    return dict(store._db.execute("SELECT record, slot FROM entry WHERE slot IS NOT NULL"))


def test_a_stranger_never_shows_under_the_forgotten(folder):
    with opened(folder, T) as store:
        store.store([entry(b"a", 1, b"p1"), entry(b"b", 2, b"p2")])
        reader, rows = store.signals(), slots_of(store)
    # The last slot and a lower one: both were given away before.
    for gone, new in ((b"p2", 3), (b"p1", 4)):
        with opened(folder, T) as store:
            assert store.forget([gone]) == 1
            store.store([entry(f"new {new}".encode(), new, b"stranger")])
            assert not set(slots_of(store).values()) & set(rows.values()) - {rows[b"a"]}
    assert not reader.any()
    with opened(folder, T) as store:
        found = slots_of(store)
        np.testing.assert_array_equal(store.signals()[[found[b"new 3"], found[b"new 4"]]], [signal(3), signal(4)])


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["store", "replace", "refuse", "forget", "reopen"]), st.integers(0, 5), st.integers(0, 5)
        ),
        min_size=1,
        max_size=14,
    )
)
def test_every_reader_of_any_time_sees_its_own_or_zeros(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("slots") / "cache" / "x"
    number, truth = 0, {}
    readers = []
    for what, one, other in steps:
        with opened(folder, T) as store:
            if what == "forget":
                store.forget([b"p%d" % one])
            elif what == "refuse":
                store.store([entry(b"r%d" % one, None, b"p%d" % other)])
            elif what != "reopen":
                batch = []
                for record in {one, other if what == "store" else one}:
                    number += 1
                    batch.append(entry(b"r%d" % record, number, b"p%d" % (record % 3)))
                    truth[b"r%d" % record] = number
                store.store(batch)
            now, rows = store.signals(), slots_of(store)
            for record, slot in rows.items():
                assert (now[slot] == truth[record]).all()
            readers.append((now, {slot: truth[record] for record, slot in rows.items()}))
        for held, numbers in readers:
            for slot, mine in numbers.items():
                assert np.isin(held[slot], (mine, 0)).all()
                assert len(np.unique(held[slot])) == 1


def test_a_cache_of_earlier_software_gives_no_slot_away_either(folder):
    with opened(folder, T) as store:
        store.store([entry(b"a", 1), entry(b"b", 2)])
        reader = store.signals()
    with closing(sqlite3.connect(folder / "index.sqlite")) as index, index:
        index.execute("DELETE FROM meta WHERE name IN ('next', 'made', 'changes')")
        # As it was after a patient had been forgotten: their slot was the next to be given.
        index.execute("DELETE FROM entry WHERE record = CAST('b' AS BLOB)")
        index.execute("DROP TABLE freed")
    with opened(folder, T) as store:
        store.store([entry(b"c", 3)])
        assert slots_of(store) == {b"a": 0, b"c": 2}
    assert (reader[1] == 2).all()


def test_a_crash_before_the_wiping_is_made_good_at_the_next_opening(folder, monkeypatch):
    with opened(folder, T) as store:
        store.store([entry(b"a", 1, b"p1"), entry(b"b", 2, b"p2")])

    def crash(self, slots):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, opened(folder, T) as store:
        patched.setattr(SlotFile, "wipe", crash)
        with pytest.raises(KeyboardInterrupt):
            store.forget([b"p1"])
    file = folder / "signals.i16"
    assert signal(1).tobytes() in file.read_bytes()
    with opened(folder, T) as store:
        assert slots_of(store) == {b"b": 1}
    assert file.read_bytes() == bytes(24 * T) + signal(2).tobytes()


def test_what_was_written_before_a_crash_and_never_indexed_is_wiped(folder):
    with opened(folder, T) as store:
        store.store([entry(b"a", 1)])
    file = folder / "signals.i16"
    with file.open("ab") as end:
        end.write(signal(9).tobytes() + b"\x07" * 11)
    with opened(folder, T) as store:
        assert file.read_bytes() == signal(1).tobytes()
        store.store([entry(b"b", 2)])
    assert file.read_bytes() == signal(1).tobytes() + signal(2).tobytes()


def test_the_generation_ends_where_something_seen_became_another_thing(folder):
    def after(*doing):
        with opened(folder, T) as store:
            for do in doing:
                do(store)
            return store.generation()

    first = after(lambda s: s.store([entry(b"a", 1, b"p1"), entry(b"b", 2, b"p2")]))
    assert first.is_now()
    after(lambda s: s.store([entry(b"c", 3, b"p3")]), lambda s: s.reassign([b"a"], [b"p1"]), lambda s: s.forget([b"q"]))
    assert first.is_now()
    for change in (
        lambda s: s.store([entry(b"a", 7, b"p1")]),
        lambda s: s.store([entry(b"a", None, b"p1")]),
        lambda s: s.reassign([b"b"], [b"p9"]),
        lambda s: s.forget([b"p9"]),
    ):
        before = after()
        assert before.is_now()
        assert after(change) != before
        assert not before.is_now()
    before = after()
    assert forget_everywhere(folder.parent, [b"p3"]) == [1]
    assert not before.is_now()
    before = after()
    (folder / "index.sqlite").unlink()
    assert not before.is_now()
    made_anew = after()
    assert made_anew.is_now()
    assert made_anew.made != before.made


def test_a_wiped_slot_gives_its_blocks_back(tmp_path):
    samples = 2**16
    file = SlotFile(tmp_path, samples)
    file.create()
    file.write(0, [np.ones((12, samples), np.int16).tobytes()] * 4)
    before = file.stat()
    file.wipe([1, 2, 9])
    after = file.stat()
    assert after.st_size == before.st_size
    mapped = file.mapped(4)
    assert [int(mapped[i].max()) for i in range(4)] == [1, 0, 0, 1]
    if after.st_blocks == before.st_blocks:
        pytest.skip("this file system gives no blocks back")
    assert after.st_blocks <= 0.6 * before.st_blocks
