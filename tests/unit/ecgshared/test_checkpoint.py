"""Checkpoints: whole or named, the last or the one before, whatever was cut, flipped or killed between two writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgshared.errors import RunError
from ecgshared.wire import checkpoint
from ecgshared.wire.checkpoint import before, load_checkpoint, save_checkpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Rounds 1 to 3 are saved."""
    for number in (1, 2, 3):
        save_checkpoint(tmp_path / "checkpoint.bin", {"round": number}, {"weights": np.full(5, number, np.float32)})
    return tmp_path / "checkpoint.bin"


def loaded(path: Path) -> tuple[int | None, list[str]]:
    told: list[str] = []
    found = load_checkpoint(path, told.append)
    if found is not None:
        assert found[1]["weights"].tolist() == [found[0]["round"]] * 5
    return None if found is None else found[0]["round"], told


def test_the_last_state_comes_back_and_the_one_before_is_kept(path: Path, tmp_path: Path) -> None:
    assert loaded(path) == (3, [])
    assert loaded(before(path)) == (2, [])
    assert loaded(tmp_path / "other.bin") == (None, [])


def test_every_byte_counts(path: Path) -> None:
    """One flipped bit at any place, or a file cut at any place: named, and the one before is taken."""
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        number, told = loaded(path)
        assert number == 2
        assert len(told) == 1
        assert told[0].startswith("checkpoint.bin is ")
        path.write_bytes(whole[:place])
        assert loaded(path)[0] == 2
    path.write_bytes(whole + b"\0")
    assert loaded(path)[0] == 2


def test_a_damaged_file_does_not_take_the_place_of_a_whole_one(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    save_checkpoint(path, {"round": 4}, {"weights": np.full(5, 4, np.float32)})
    assert loaded(path) == (4, [])
    assert loaded(before(path)) == (2, [])


@pytest.mark.parametrize("stage", ["write_atomically", "rename"])
def test_killed_while_it_writes_or_renames_the_last_state_stays(
    path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, stage, killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"round": 4}, {})
    assert loaded(path) == (3, [])


def test_where_none_is_whole_nothing_begins_anew_by_itself(path: Path) -> None:
    for file in (path, before(path)):
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(RunError, match="no checkpoint of this step is whole") as caught:
        loaded(path)
    assert "checkpoint.before.bin is cut short" in str(caught.value)
