"""What lies on the disk: whether the kernel calls its volume encrypted, and how long answers are kept."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from client.egress.gate import Release
from client.egress.outbox import Outbox
from client.operator.check import check_site
from client.site.at_rest import encryption_of
from ecgshared.errors import RefusalCode, Refused
from ecgshared.wire.protocol import Request
from simulations.attacks.door import Door, asked, made_cohort


def machine(folder: Path, place: Path, tree: dict, kind: str = "ext4", swaps: int = 0) -> Path:
    """Lay /proc and /sys of a machine on which ``place`` lies on the top of a tree of devices."""
    number = place.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    (folder / "proc/self").mkdir(parents=True)
    line = f"36 25 {device} / / rw shared:1 - {kind} /dev/x rw\n"
    (folder / "proc/self/mountinfo").write_text(line, encoding="utf-8")
    (folder / "proc/swaps").write_text("Filename Type\n" + "/dev/y partition\n" * swaps, encoding="utf-8")
    if tree:
        lay(folder / "sys/dev/block" / device, tree)
    return folder


def lay(block: Path, tree: dict) -> None:
    block.mkdir(parents=True)
    if "uuid" in tree:
        (block / "dm").mkdir()
        (block / "dm/uuid").write_text(tree["uuid"], encoding="ascii")
    for i, below in enumerate(tree.get("on", ())):
        lay(block / "slaves" / f"disk{i}", below)


@pytest.mark.parametrize(
    ("tree", "kind", "swaps", "expected"),
    [
        ({"uuid": "CRYPT-LUKS2-0123-home"}, "ext4", 0, "encrypted"),
        ({"uuid": "LVM-abc", "on": [{"uuid": "CRYPT-LUKS1-1"}]}, "xfs", 0, "encrypted"),
        ({"uuid": "LVM-abc", "on": [{"uuid": "CRYPT-LUKS2-1"}, {"uuid": ""}]}, "xfs", 0, "not encrypted"),
        ({"uuid": "LVM-abc", "on": [{}]}, "ext4", 0, "not encrypted"),
        ({"x": 1}, "ext4", 0, "not encrypted"),
        ({}, "nfs4", 0, "not known"),
        ({}, "tmpfs", 0, "encrypted"),
        ({}, "tmpfs", 1, "not known"),
    ],
    ids=["luks", "lvm on luks", "half", "lvm", "plain", "share", "memory", "memory with swap"],
)
def test_the_kernel_is_asked_down_to_the_disk(tmp_path, tree, kind, swaps, expected):
    place = tmp_path / "state"
    place.mkdir()
    system = machine(tmp_path / "system", place, tree, kind, swaps)
    assert encryption_of(place, system=system) == expected
    assert encryption_of(place / "not" / "yet", system=system) == expected


def test_a_site_that_requires_encryption_answers_from_nothing_else(tmp_path, monkeypatch):
    data = made_cohort(120, np.random.default_rng(0))
    study = asked("table-1", [{"id": "d", "stage": "describe"}])
    door = Door(data, {"retention": {"encrypted": "required"}})
    for volume, refused in (("not encrypted", 1), ("not known", 2), ("encrypted", 2)):
        monkeypatch.setattr("client.answer.encryption_of", lambda state, volume=volume: volume)
        told = door.ask(study, "d", "counts")
        assert (told is None) == (volume != "encrypted")
        assert door.refused == refused


def test_check_says_what_the_volume_is(tmp_path, monkeypatch):
    (tmp_path / "records").mkdir()
    (tmp_path / "t.csv").write_text("file,patient_id\n", encoding="utf-8")
    content = {"site": "north", "records": {"folder": "records"}, "state": "state"}
    content["table"] = {"path": "t.csv", "columns": {"file": "file", "patient_id": "patient_id"}}
    path = tmp_path / "site.yaml"
    for demand, volume, fault in (
        ("wanted", "not encrypted", False),
        ("required", "not known", True),
        ("required", "encrypted", False),
    ):
        path.write_text(yaml.safe_dump(content | {"retention": {"encrypted": demand}}), encoding="utf-8")
        monkeypatch.setattr("client.operator.check.encryption_of", lambda state, volume=volume: volume)
        found = check_site(path, offline=True, sample=0)
        assert any(note.endswith(f"the kernel says: {volume}") for note in found.notes)
        assert any("retention.encrypted" in one for one in found.faults) == fault


def test_old_answers_are_emptied_and_stay_answered(tmp_path):
    outbox = Outbox(tmp_path)
    old, new = (Request("a" * 64, run, "net", "fit", 1, {}) for run in ("old", "new"))
    for request in (old, new):
        outbox.keep(request, Release(b"noised", {"kind": "Update"}))
    past = time.time() - 31 * 86400
    os.utime(outbox._path(old), (past, past))
    assert outbox.forget_old(30) == 1
    assert outbox.forget_old(30) == 0
    assert outbox.find(new, once=True).body == b"noised"
    assert outbox.find(old, once=False) is None
    with pytest.raises(Refused) as refused:
        outbox.find(old, once=True)
    assert refused.value.code is RefusalCode.BAD_REQUEST
    assert b"noised" not in outbox._path(old).read_bytes()
