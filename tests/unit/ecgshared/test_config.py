"""YAML that comes from elsewhere: few bytes cannot stand for gigabytes, and faults are told by line and column."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ecgshared.config import MOST_BYTES, load_yaml
from ecgshared.errors import ConfigError
from ecgshared.study.study import load_study

BOMB = (
    "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    + "name: x\nendpoints: *a11\n"
)


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "given.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_a_bomb_is_refused_without_being_made(written):
    path = written(BOMB)
    begun = time.process_time()
    with pytest.raises(ConfigError, match=r"given.yaml:2:10: aliases are not read here"):
        load_yaml(path)
    with pytest.raises(ConfigError, match=r"given.yaml:5:\d+: holds too many values"):
        load_study(path)
    # Eleven levels stand for 31 thousand million values; a fault here would hang, not merely be slow.
    assert time.process_time() - begun < 5


def test_the_case_as_it_was_reported(shared_data):
    case = shared_data.parent / "cases" / "privacy" / "14-yaml-bomb" / "bomb.yaml"
    if not case.exists():
        pytest.skip("the shared cases (../shared/cases) are not beside this checkout")
    with pytest.raises(ConfigError, match="too many values"):
        load_study(case)


def test_where_aliases_are_allowed_they_are_held_to_what_they_stand_for(written):
    assert load_yaml(written("a: &a {x: 1}\nb: {<<: *a, y: 2}\n"), aliases=True)["b"] == {"x": 1, "y": 2}
    with pytest.raises(ConfigError, match="too many values"):
        load_yaml(written(BOMB), aliases=True)
    with pytest.raises(ConfigError):
        load_yaml(written("a: &a [*a, *a]\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: " + "[" * 100_000, "nest"),
        ("- " * 100_000 + "x", "nested too deeply"),
        ("a: " + "x" * MOST_BYTES, "too large"),
        ("a: [" + "1," * 300_000 + "1]", "too many values"),
        ("a: 2020-13-45", "cannot read"),
        ("a: !!python/object/apply:os.system [id]", "not valid YAML"),
        (b"a: \xff\xfe", "cannot be read"),
        ("- a\n- b\n", "keys and values"),
        ("a: b\n c: d\n", "given.yaml:2:3"),
    ],
)
def test_what_cannot_be_a_configuration_is_told(written, text, said):
    with pytest.raises(ConfigError, match=said):
        load_yaml(written(text))


def test_plain_files_are_read_as_before(written):
    assert load_yaml(written("\ufeffa: 1\nb: [x, {c: null}]\n")) == {"a": 1, "b": ["x", {"c": None}]}
