"""What befell a run between hospitals stands in its report: restarts, losses made good or not, its state."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any, get_args

import pytest

from ecgshared.errors import RefusalCode
from server.coordinator.submission import GOING
from server.report.accounts import happenings
from server.report.folder import read_run
from server.report.glossary import explain
from server.report.html import page
from server.report.results import RunInfo

STUDY = "name: tiny\nsites: {train: [north, south]}\nsteps:\n  - {id: risk, stage: nets}\n"
LOST = "lost (Flower error 5)"


def line(number: int, answered: list[str], lost: dict[str, list[str]], absent: dict[str, str]) -> dict[str, Any]:
    return {"step": "risk", "phase": "fit", "round": number, "answered": answered, "absent": absent, "lost": lost}


HISTORY = [
    line(1, ["north", "south"], {}, {}),
    line(2, ["north", "south"], {"south": [LOST, LOST, "paused"]}, {}),
    line(3, ["north"], {"south": [LOST]}, {"south": LOST}),
]
EVENTS = [
    {"at": "2026-11-21T06:00:00Z", "what": "submitted", "why": ""},
    {"at": "2026-11-21T06:01:00Z", "what": "submitted again", "why": "the SuperLink ended <b>"},
]


def run_folder(folder: Path, *, history: Any = HISTORY, events: Any = EVENTS, status: str = "done") -> Path:
    (folder / "artefacts").mkdir()
    (folder / "study.yaml").write_text(STUDY)
    info = {"run": "r", "study": "tiny", "study_sha256": "ab" * 32, "status": status, "started": "2026-11-21T06:00:00Z"}
    (folder / "run.json").write_text(json.dumps(info | {"sites": ["north", "south"]}))
    for name, lines in (("history.jsonl", history), ("events.jsonl", events)):
        if lines:
            (folder / name).write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return folder


def text_of(folder: Path) -> str:
    html = page(read_run(folder))
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html.partition("</style>")[2])))


def test_losses_are_counted_by_site_reason_and_round(tmp_path):
    found = happenings(read_run(run_folder(tmp_path)))
    assert [(x.site, x.reason, x.times, x.rounds, x.made_good) for x in found.losses] == [
        ("south", LOST, 3, "2 to 3", 1),
        ("south", "paused", 1, "2", 1),
    ]
    assert [event.what for event in found.events] == ["submitted again"]


def test_the_report_tells_them(tmp_path):
    text = text_of(run_folder(tmp_path))
    assert "2026-11-21T06:01:00Z submitted again the SuperLink ended <b>" in text
    assert f"south risk fit 2 to 3 3 1 {LOST} the message or its answer was lost on the way" in text
    assert "south risk fit 2 1 1 paused the site's operator paused it" in text


def test_a_site_that_came_back_is_told(tmp_path):
    away = [line(n, ["north"], {}, {"south": "deadline"}) for n in (4, 5)]
    cut_off = line(6, ["north"], {}, {"south": "deadline"})
    back = line(6, ["north", "south"], {}, {})
    found = happenings(read_run(run_folder(tmp_path, history=[*HISTORY, *away, cut_off, back], events=None)))
    assert [(r.site, r.step, r.phase, r.away, r.back) for r in found.returns] == [("south", "risk", "fit", "3 to 5", 6)]
    assert "south was left out of risk, fit, rounds 3 to 5, and answered again in round 6." in text_of(tmp_path)


def test_who_did_not_come_back_did_not(tmp_path):
    assert happenings(read_run(run_folder(tmp_path))).returns == ()


def test_an_undisturbed_run_has_no_such_section(tmp_path):
    assert "What happened" not in text_of(run_folder(tmp_path, history=HISTORY[:1], events=EVENTS[:1]))


def test_a_run_in_one_process_has_none_either(tmp_path):
    assert "What happened" not in text_of(run_folder(tmp_path, history=HISTORY[:1], events=None))


def test_a_failure_at_the_first_submission_is_told(tmp_path):
    failed = [{"at": "2026-11-21T06:00:00Z", "what": "failed", "why": "5 attempts in a row came to nothing"}]
    assert "5 attempts in a row" in text_of(run_folder(tmp_path, events=failed, status="failed"))


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("queued", "goes on when the coordinator is up"),
        ("waiting", "waits for sites to return"),
        ("interrupted", "goes on when the coordinator is up"),
        ("stopped", "can be resumed"),
        ("paused", "can be resumed"),
        ("failed", "This run failed"),
    ],
)
def test_every_state_of_a_run_has_a_report(tmp_path, status, told):
    assert told in text_of(run_folder(tmp_path, status=status))


def test_the_states_in_which_a_run_goes_on_are_known_to_the_report():
    assert set(GOING) < set(get_args(RunInfo.model_fields["status"].annotation))


@pytest.mark.parametrize("code", list(RefusalCode))
def test_every_refusal_is_in_words(code):
    assert explain(code.value)
