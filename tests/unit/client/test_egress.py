"""The gate: small groups are blanked, and what it does not understand does not leave."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.egress.gate import log_release, release
from client.egress.outbox import Outbox
from client.site.settings import SiteSettings
from ecgshared.errors import RefusalCode, Refused
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Answer, Count, Evidence, Public, Request, Statistic, Sums, Weights, payload

SETTINGS = SiteSettings.model_validate(
    {
        "site": "north",
        "records": {"folder": "records"},
        "table": {"path": "cohort.csv", "columns": {"file": "file"}},
        "limits": {"min_patients": 10, "min_events": 5},
    }
)
REQUEST = Request("hash", "run", "judged", "say", 0, {})


@payload("gate-test", "say")
@dataclass(frozen=True)
class Said:
    counts: Annotated[NDArray[Any], Count()]
    auc: Annotated[float, Statistic()]
    hessian: Annotated[NDArray[Any], Sums()]
    names: Annotated[tuple[str, ...], Public()]


@payload("gate-test", "weights")
@dataclass(frozen=True)
class Trained:
    update: Annotated[NDArray[Any], Weights()]


def said(**changes: Any) -> Said:
    values = {"counts": np.array([12.0, 9.0]), "auc": 0.7, "hessian": np.ones((2, 2)), "names": ("a",)}
    return Said(**(values | changes))


def evidence(**changes: Evidence) -> dict[str, Evidence]:
    plenty = Evidence(np.array(50), np.array(20))
    return {"counts": Evidence(np.array([12, 9])), "auc": plenty, "hessian": plenty} | changes


def leave(payload: Any, groups: dict[str, Evidence], request: Request = REQUEST) -> Any:
    made = release(Answer(payload, groups), request, stage="gate-test", settings=SETTINGS)
    return decode_payload(made.body, type(payload), stamp_of(request, "north")), made


def test_cells_below_the_limit_are_withheld_and_counted():
    out, made = leave(said(), evidence())
    np.testing.assert_array_equal(out.counts, [12.0, np.nan])
    assert out.auc == 0.7
    assert made.log_line["fields"]["counts"]["withheld"] == 1


@pytest.mark.parametrize(("patients", "events"), [(9, 9), (50, 4)])
def test_a_statistic_of_few_patients_or_few_events_is_withheld(patients, events):
    few = Evidence(np.array(patients), np.array(events))
    out, _ = leave(said(), evidence(auc=few, hessian=few))
    assert np.isnan(out.auc)
    assert np.isnan(out.hessian).all()


def test_a_field_without_evidence_closes_the_gate():
    groups = evidence()
    del groups["auc"]
    with pytest.raises(Refused) as refusal:
        leave(said(), groups)
    assert refusal.value.code is RefusalCode.GATE_CLOSED


@pytest.mark.parametrize(
    "bad",
    [
        {"auc": float("inf")},
        {"counts": np.array([1, 2])},
        {"counts": np.array(["Anna", "Bo"], dtype=object)},
        {"counts": np.ones((3, 2))},
        {"names": ("Müller, Hans; *1950",)},
        {"names": ("x" * 81,)},
        {"names": tuple(str(i) for i in range(5000))},
    ],
)
def test_what_the_gate_does_not_understand_does_not_leave(bad):
    with pytest.raises(Refused) as refusal:
        leave(said(**bad), evidence())
    assert refusal.value.code is RefusalCode.GATE_CLOSED


def test_an_undeclared_type_does_not_leave():
    @dataclass(frozen=True)
    class Rogue:
        rows: Annotated[NDArray[Any], Public()]

    with pytest.raises(Refused, match="not the declared reply"):
        release(Answer(Rogue(np.zeros(3)), {}), REQUEST, stage="gate-test", settings=SETTINGS)


def test_weights_of_too_few_patients_are_refused_and_nan_weights_close_the_gate():
    request = Request("hash", "run", "risk", "weights", 1, {})
    with pytest.raises(Refused) as few:
        leave(Trained(np.ones(3, np.float32)), {"update": Evidence(np.array(9))}, request)
    assert few.value.code is RefusalCode.TOO_FEW
    with pytest.raises(Refused) as broken:
        leave(Trained(np.array([1, np.nan], np.float32)), {"update": Evidence(np.array(99))}, request)
    assert broken.value.code is RefusalCode.GATE_CLOSED


def test_the_log_says_what_left_and_when_it_left_again(tmp_path: Path):
    _, made = leave(said(), evidence())
    log_release(tmp_path / "state", made.log_line, replayed=False)
    log_release(tmp_path / "state", made.log_line, replayed=True)
    lines = [json.loads(line) for line in (tmp_path / "state" / "releases.jsonl").read_text().splitlines()]
    assert [line["replayed"] for line in lines] == [False, True]
    assert lines[0]["bytes"] == len(made.body)
    assert (tmp_path / "state" / "releases.jsonl").stat().st_mode & 0o077 == 0


def test_the_outbox_gives_the_same_bytes_again_and_refuses_another_private_question_of_the_same_name(tmp_path: Path):
    outbox = Outbox(tmp_path / "outbox")
    _, made = leave(said(), evidence())
    assert outbox.find(REQUEST, once=True) is None
    outbox.keep(REQUEST, made)
    again = Outbox(tmp_path / "outbox").find(REQUEST, once=True)
    assert again is not None
    assert again.body == made.body
    with pytest.raises(Refused, match="other content"):
        outbox.find(Request("hash", "run", "judged", "say", 0, {"weights": np.ones(2)}), once=True)
    assert outbox.find(Request("hash", "run", "judged", "say", 0, {"weights": np.ones(2)}), once=False) is None


def test_of_answers_that_may_be_made_anew_a_few_are_kept_and_of_the_rest_nothing(tmp_path: Path):
    outbox = Outbox(tmp_path)
    _, made = leave(said(), evidence())
    for number in range(50):
        outbox.keep(Request("hash", "run", "judged", "say", number, {}), made, once=False)
        assert len(list(tmp_path.rglob("*.answer"))) <= 3
    last = Request("hash", "run", "judged", "say", 49, {})
    os.utime(outbox._path(last), (0, 0))
    assert outbox.forget_old(30) == 1
    assert outbox.find(last, once=False) is None
    assert len(list(tmp_path.rglob("*.answer"))) == 2


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b"{" + b, lambda b: b[: len(b) // 2]]
)
def test_a_damaged_answer_is_made_anew_or_where_it_is_made_once_refused_until_it_is_restored(tmp_path: Path, damage):
    outbox = Outbox(tmp_path)
    _, made = leave(said(), evidence())
    outbox.keep(REQUEST, made)
    path = outbox._path(REQUEST)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert outbox.find(REQUEST, once=False) is None
    with pytest.raises(Refused, match="is damaged") as refused:
        outbox.find(REQUEST, once=True)
    assert refused.value.code is RefusalCode.DATA_UNAVAILABLE
    path.write_bytes(whole)
    assert outbox.find(REQUEST, once=True) is not None


def test_private_rounds_long_past_are_not_answered_twice(tmp_path: Path):
    outbox = Outbox(tmp_path)
    _, made = leave(said(), evidence())
    for number in range(6):
        outbox.keep(Request("hash", "run", "judged", "say", number, {}), made)
    with pytest.raises(Refused, match="long ago"):
        outbox.find(Request("hash", "run", "judged", "say", 1, {}), once=True)
    assert outbox.find(Request("hash", "run", "judged", "say", 1, {}), once=False) is None
    assert outbox.find(Request("hash", "run", "judged", "say", 5, {}), once=True) is not None
