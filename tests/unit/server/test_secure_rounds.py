"""Sites and coordinator of secure sums, message by message, without recordings: dropouts, restarts, and liars."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.egress.gate import release
from client.egress.outbox import Outbox
from client.egress.secure_sum import Own, SecureSite
from client.site.settings import SiteSettings, load_site
from ecgshared.errors import RefusalCode, Refused, RunError
from ecgshared.privacy.fixed_point import EXACT
from ecgshared.privacy.summed import Summand
from ecgshared.study.secure import TOGETHER
from ecgshared.study.study import Study, load_study
from ecgshared.wire.bytes import decode_payload, decode_request, encode_request, stamp_of
from ecgshared.wire.protocol import Answer, Request, Together, payload_type
from server.rounds.secure_sums import MembersLost, SecureSums
from server.rounds.step_context import Replies

RUN = "run-1"
INPUTS = 3
KNOWN = {"patients_known": "1"}


class Hospital:
    """One site as its process serves it: what it answers is bytes, and all it knows is on its disk."""

    def __init__(self, settings: SiteSettings, study: Study, values: np.ndarray, group: Together | None) -> None:
        self.settings, self.study, self.values, self.group = settings, study, values, group
        self.computed = 0

    def answer(self, body: bytes) -> bytes:
        request = decode_request(body)
        outbox = Outbox(self.settings.state / "outbox")
        kept = outbox.find(request, once=True)
        if kept is None:
            step = self.study.step(request.step)
            secure = SecureSite(self.settings, self.study, step, request.run, self._own)
            answer = Answer(secure.answer(request), {})
            kept = release(answer, request, stage=step.stage, settings=self.settings)
            outbox.keep(request, kept)
        return kept.body

    def _own(self, asked: Request) -> Own:
        self.computed += 1
        short = frozenset({"update"}) if asked.phase == "fit" else frozenset()
        if asked.phase == "fit":
            return Own(Summand({"update": self.values}, short, {"layout": "x"}), None)
        return Own(
            Summand({"total": self.values, "squares": self.values**2, "counts": np.ones(3)}, short, KNOWN), self.group
        )


class Hospitals:
    """Several, and a coordinator who asks them through ``send``, which tests may bend."""

    def __init__(self, folder: Path, n: int, *, seed: int = 0, threshold: Any = "majority", **groups: Any) -> None:
        self.folder = folder
        self.names = tuple(f"site{i:02d}" for i in range(n))
        self.study = load_study(_study(folder, self.names, threshold))
        draw = np.random.default_rng(seed)
        self.sites: dict[str, Hospital] = {}
        for name in self.names:
            group = Together(np.array([20]), np.array([4, 16]), np.array([[8.0, 4.0]]))
            found = groups.get(name, group)
            self.sites[name] = Hospital(_site(folder, name), self.study, draw.normal(size=INPUTS) * 1e3, found)
        self.down: set[str] = set()
        self.down_from: dict[str, str] = {}
        self.sent: list[tuple[str, Request]] = []
        self.refused: dict[str, list[RefusalCode]] = {}
        self.bend: Any = lambda site, request: request

    def sums(self, step: str, run: str = RUN) -> SecureSums:
        folder = self.folder / run / step
        folder.mkdir(parents=True, exist_ok=True)

        def ask(phase, round, arrays, sites, *, own=None, accept=None):
            request = Request(self.study.sha256, run, step, phase, round, dict(arrays))
            by_site, absent = {}, {}
            for site in sites:
                mine = replace(request, arrays={**request.arrays, **(own or {}).get(site, {})})
                try:
                    by_site[site] = self.ask(site, self.bend(site, mine))
                except Refused as refusal:
                    absent[site] = refusal.code.value
                    self.refused.setdefault(site, []).append(refusal.code)
                except ConnectionError:
                    absent[site] = "lost"
            return Replies(by_site, absent)

        return SecureSums(self.study, self.study.step(step), run, ask, folder)

    def ask(self, site: str, request: Request) -> Any:
        if site in self.down or request.phase.rpartition("+")[2] == self.down_from.get(site):
            self.down.add(site)
            raise ConnectionError
        self.sent.append((site, request))
        body = self.sites[site].answer(encode_request(request))
        stage = self.study.step(request.step).stage
        return decode_payload(body, payload_type(stage, request.phase), stamp_of(request, site))

    def plain(self, sites: Any) -> np.ndarray:
        """The plain sum of the same fixed-point numbers."""
        words = [EXACT.encode(self.sites[s].values, len(self.names)) for s in sites]
        return EXACT.decode(np.sum(words, axis=0, dtype=np.uint64))

    def last(self, part: str) -> tuple[str, Request]:
        return next((s, r) for s, r in reversed(self.sent) if r.phase.endswith(f"+{part}"))


def _study(folder: Path, names: tuple[str, ...], threshold: Any) -> Path:
    path = folder / "study.yaml"
    content = {
        "name": "sums",
        "sites": {"train": list(names)},
        "endpoints": {"male": {"kind": "binary", "column": "male"}},
        "secure_sum": {"threshold": threshold},
        "steps": [
            {"id": "cohorts", "stage": "describe"},
            {
                "id": "risk",
                "stage": "train",
                "uses": ["cohorts"],
                "heads": ["male"],
                "model": {"covariates": ["age"]},
            },
            {"id": "score", "stage": "calibrate", "uses": ["risk"], "target": "male"},
        ],
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def _site(folder: Path, name: str) -> SiteSettings:
    path = folder / f"{name}.yaml"
    content = {
        "site": name,
        "records": {"folder": "."},
        "table": {"path": "none.csv", "columns": {"file": "file"}},
        "state": str(folder / "state" / name),
        "seed": 3,
    }
    path.write_text(yaml.safe_dump(content))
    return load_site(path)


@pytest.fixture
def four(tmp_path):
    return Hospitals(tmp_path, 4)


class TestHonest:
    @pytest.mark.parametrize("n", [3, 4, 5, 10])
    def test_statistics_of_all(self, tmp_path, n):
        hospitals = Hospitals(tmp_path, n, seed=n)
        found = hospitals.sums("score").add("moments", 0, {})
        assert np.array_equal(found.by_site[TOGETHER].total, hospitals.plain(hospitals.names))
        assert found.by_site[TOGETHER].counts.tolist() == [n, n, n]
        assert found.summed == hospitals.names

    @settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(n=st.integers(3, 6), seed=st.integers(0, 2**31), data=st.data())
    def test_any_number_any_values_any_dropouts(self, tmp_path_factory, n, seed, data):
        hospitals = Hospitals(tmp_path_factory.mktemp("sums"), n, seed=seed)
        least = hospitals.sums("score").threshold
        gone = data.draw(st.lists(st.sampled_from(hospitals.names), max_size=n - least, unique=True))
        part = data.draw(st.sampled_from(["keys", "shares", "hold", "evidence", "weigh", "hidden"]))
        hospitals.down_from = dict.fromkeys(gone, part)
        found = hospitals.sums("score").add("moments", 0, {})
        stay = [name for name in hospitals.names if name not in gone]
        assert np.array_equal(found.by_site[TOGETHER].total, hospitals.plain(stay))
        assert set(found.absent) == set(gone)

    def test_many_sums_of_one_set_of_keys_and_the_next_set(self, four):
        sums = four.sums("score")
        for number in range(18):
            for site in four.sites.values():
                site.values = np.full(INPUTS, float(number + 1))
            found = sums.add("moments", number, {"coef": np.array([float(number)])})
            assert found.by_site[TOGETHER].total.tolist() == [4.0 * (number + 1)] * INPUTS
        assert {request.round for _, request in four.sent if request.phase == "+keys"} == {1, 2}


class TestTraining:
    """Weights, through the protocol alone: what they are made into is the integration test's."""

    def opened(self, hospitals, **how):
        from ecgshared.stages import train

        seen = {}
        of_sums = train.of_sums
        train.of_sums = lambda cls, sums, told, request: seen.update(sums=sums) or "update"
        try:
            replies = hospitals.sums("risk").add("fit", 1, {"weights": np.zeros(INPUTS)}, **how)
        finally:
            train.of_sums = of_sums
        return seen["sums"]["update"], replies

    @pytest.mark.parametrize(("n", "gone", "part"), [
        (4, 1, "hidden"), (5, 2, "hidden"), (10, 3, "hidden"), (10, 4, "reveal"), (4, 0, "")
    ])  # fmt: skip
    def test_dropouts_are_left_out_of_the_sum(self, tmp_path, n, gone, part):
        hospitals = Hospitals(tmp_path, n, seed=n)
        lost = hospitals.names[:gone]
        hospitals.down_from = dict.fromkeys(lost, part)
        update, replies = self.opened(hospitals)
        stay = [name for name in hospitals.names if name not in lost or part == "reveal"]
        expected = np.sum([hospitals.sites[s].values for s in stay], axis=0)
        np.testing.assert_allclose(update, expected, rtol=0, atol=n * 2**-41)
        assert replies.summed == tuple(stay)

    def test_below_the_threshold_nothing_is_opened(self, four):
        four.down_from = dict.fromkeys(four.names[:2], "hidden")
        with pytest.raises(RunError, match="2 of 3"):
            self.opened(four)
        assert not [r for _, r in four.sent if r.phase.endswith("+reveal")]

    def test_numbers_too_large_are_refused_by_the_site(self, four):
        four.sites["site01"].values = np.array([2.0**31, 0.0, 0.0])
        update, replies = self.opened(four)
        assert replies.absent == {"site01": "secure-sum-refused"}
        stay = ("site00", "site02", "site03")
        np.testing.assert_allclose(update, np.sum([four.sites[s].values for s in stay], axis=0), atol=1e-10)


class TestLimits:
    def small(self, **changes):
        return Together(
            np.array(changes.get("patients", [20])),
            np.array(changes.get("events", [4, 16])),
            np.array(changes.get("carried", [[8.0, 4.0]])),
            changes.get("least", 0),
        )

    def test_small_sites_are_enough_together(self, tmp_path):
        groups = {f"site{i:02d}": self.small(patients=[4], events=[2, 2]) for i in range(3)}
        found = Hospitals(tmp_path, 3, **groups).sums("score").add("moments", 0, {})
        assert found.summed == ("site00", "site01", "site02")

    @pytest.mark.parametrize(
        "group",
        [
            {"patients": [3]},
            {"events": [1, 16]},
            {"events": [4, 1]},
            {"patients": [20, 3]},
            {"least": 61},
            {"carried": [[1e-9, 1e-19]]},
        ],
    )
    def test_too_small_together_is_not_opened(self, tmp_path, group):
        groups = {f"site{i:02d}": self.small(**group) for i in range(3)}
        hospitals = Hospitals(tmp_path, 3, **groups)
        with pytest.raises(RunError, match="too-few"):
            hospitals.sums("score").add("moments", 0, {})
        assert {code for codes in hospitals.refused.values() for code in codes} == {RefusalCode.TOO_FEW}
        assert not [r for _, r in hospitals.sent if r.phase.endswith("+reveal")]

    def test_one_patient_who_carries_the_sum_of_three_hospitals_keeps_it_closed(self, tmp_path):
        """Each hospital alone has an effective number of 16; weights of one are a million times those of the others."""
        groups = {
            "site00": self.small(carried=[[1.0, 1.0]]),
            "site01": self.small(carried=[[1.6e-5, 1.6e-11]]),
            "site02": self.small(carried=[[1.6e-5, 1.6e-11]]),
        }
        with pytest.raises(RunError, match="too-few"):
            Hospitals(tmp_path, 3, **groups).sums("score").add("moments", 0, {})

    def test_the_strictest_site_sets_the_limit(self, tmp_path):
        hospitals = Hospitals(tmp_path, 3)
        strict = hospitals.sites["site02"]
        limits = strict.settings.limits.model_copy(update={"min_patients": 61})
        strict.settings = strict.settings.model_copy(update={"limits": limits})
        with pytest.raises(RunError, match="too-few"):
            hospitals.sums("score").add("moments", 0, {})
        assert set(hospitals.refused) == set(hospitals.names)

    def test_the_coordinator_cannot_read_the_sizes(self, four):
        four.sums("score").add("moments", 0, {})
        for site, request in four.sent:
            if request.phase.endswith(("+evidence", "+weigh")):
                body = four.sites[site].answer(encode_request(request))
                payload = decode_payload(body, payload_type("calibrate", request.phase), stamp_of(request, site))
                raw = payload.envelopes.reshape(-1)
                assert abs(np.unpackbits(raw).mean() - 0.5) < 0.1


class TestRestarts:
    @pytest.mark.parametrize("part", ["keys", "shares", "hold", "evidence", "weigh", "hidden", "reveal"])
    def test_a_coordinator_killed_at_each_part_goes_on_with_new_keys(self, four, part):
        def kill(site, request):
            if request.phase.rpartition("+")[2] == part and site == "site02":
                raise KeyboardInterrupt
            return request

        four.bend = kill
        with pytest.raises(KeyboardInterrupt):
            four.sums("score").add("moments", 0, {})
        four.bend = lambda site, request: request
        found = four.sums("score").add("moments", 0, {})
        assert np.array_equal(found.by_site[TOGETHER].total, four.plain(four.names))

    def test_a_site_asked_again_answers_the_same_bytes(self, four):
        four.sums("score").add("moments", 0, {})
        for site, request in four.sent:
            body = encode_request(request)
            assert four.sites[site].answer(body) == four.sites[site].answer(body)
        assert [site.computed for site in four.sites.values()] == [1] * 4

    def test_a_site_whose_secrets_are_gone_says_so(self, four):
        four.sums("score").add("moments", 0, {})
        site, request = four.last("reveal")
        for file in (four.folder / "state" / site / "secure_sums").rglob("setup-*"):
            file.unlink()
        with pytest.raises(Refused, match="gone") as refused:
            four.ask(site, replace(request, round=request.round + 1))
        assert refused.value.code == RefusalCode.SECURE_SUM_REFUSED

    def test_who_is_lost_after_the_first_sum_is_waited_for(self, four):
        sums = four.sums("score")
        sums.add("moments", 0, {})
        four.down.add("site03")
        for again in (sums, four.sums("score")):
            with pytest.raises(MembersLost) as lost:
                again.add("moments", 1, {})
            assert set(lost.value.sites) == {"site03"}
        four.down.clear()
        found = four.sums("score").add("moments", 1, {})
        assert np.array_equal(found.by_site[TOGETHER].total, four.plain(four.names))

    def test_who_was_away_before_the_first_sum_stays_out_of_the_step(self, four):
        four.down.add("site03")
        four.sums("score").add("moments", 0, {})
        four.down.clear()
        found = four.sums("score").add("moments", 1, {})
        assert np.array_equal(found.by_site[TOGETHER].total, four.plain(four.names[:3]))

    @pytest.mark.parametrize("other", ["r", "another-run"])
    @pytest.mark.parametrize(("step", "phase"), [("score", "moments"), ("risk", "fit")])
    def test_a_question_is_opened_with_one_set_of_hospitals(self, four, step, phase, other, monkeypatch):
        """A coordinator who says that one was lost, and subtracts: no hospital helps to open the second sum."""
        monkeypatch.setattr("ecgshared.stages.train.of_sums", lambda *_: "update")
        arrays = {"weights": np.zeros(INPUTS)}
        four.sums(step).add(phase, 1, arrays)
        for file in (four.folder / RUN).rglob("people.json"):
            file.unlink()
        four.down.add("site03")
        with pytest.raises(RunError):
            four.sums(step, other).add(phase, 1, arrays)
        assert set(four.refused) == set(four.names[:3])
        assert {code for codes in four.refused.values() for code in codes} == {RefusalCode.SECURE_SUM_REFUSED}
        four.down.clear()
        assert four.sums(step, other).add(phase, 1, arrays).summed == four.names

    def test_the_next_round_of_training_goes_on_without_who_is_lost(self, four, monkeypatch):
        monkeypatch.setattr("ecgshared.stages.train.of_sums", lambda *_: "update")
        sums = four.sums("risk")
        sums.add("fit", 1, {"weights": np.zeros(INPUTS)})
        four.down.add("site03")
        assert sums.add("fit", 2, {"weights": np.ones(INPUTS)}).summed == four.names[:3]

    def test_secrets_are_their_owners_and_older_ones_are_wiped(self, four):
        for _ in range(2):
            four.sums("score").add("moments", 0, {})
        kept = [f for f in (four.folder / "state" / "site00" / "secure_sums").rglob("*") if f.is_file()]
        assert kept
        assert {f.stat().st_mode & 0o777 for f in kept} == {0o600}
        assert {f.name.split(".")[0] for f in kept if f.name.startswith("setup")} == {"setup-2"}


class TestLiars:
    """A coordinator who lies: each site refuses, or the sum is not opened."""

    def refused(self, hospitals, bend, *, step="score", phase="moments"):
        hospitals.bend = bend
        with suppress(RunError, MembersLost):
            hospitals.sums(step).add(phase, 0, {"weights": np.zeros(INPUTS)})
        assert RefusalCode.SECURE_SUM_REFUSED in {code for codes in hospitals.refused.values() for code in codes}

    def test_about_membership_two_sites_alone(self, four):
        def bend(site, request):
            if request.phase != "+shares":
                return request
            keep = slice(0, 2)
            arrays = dict(request.arrays)
            arrays["members"] = np.frombuffer(b'["site00", "site01"]', dtype=np.uint8)
            for name in ("channel", "keys", "commitments"):
                arrays[name] = arrays[name][keep]
            for name in ("proof", "signature"):
                sizes = arrays[f"{name}_sizes"][keep]
                arrays[f"{name}s"], arrays[f"{name}_sizes"] = arrays[f"{name}s"][: sizes.sum()], sizes
            return replace(request, arrays=arrays)

        self.refused(four, bend)

    def test_about_membership_a_stranger(self, four):
        def bend(site, request):
            if request.phase != "+shares":
                return request
            names = np.frombuffer(b'["site00", "site01", "site02", "zzz"]', dtype=np.uint8)
            return replace(request, arrays={**request.arrays, "members": names})

        self.refused(four, bend)

    def test_swapped_keys(self, four):
        def bend(site, request):
            if request.phase != "+shares":
                return request
            keys = request.arrays["keys"].copy()
            keys[[0, 1]] = keys[[1, 0]]
            return replace(request, arrays={**request.arrays, "keys": keys})

        self.refused(four, bend)

    def test_keys_of_its_own_in_a_sites_name(self, four, tmp_path):
        """A coordinator with a site file of its own, and so another identity, plays site03."""
        four.sums("score").add("moments", 0, {})
        folder = tmp_path / "impostor"
        folder.mkdir()
        path = folder / "site03.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load((tmp_path / "site03.yaml").read_text()) | {"seed": 99} |
                                       {"state": str(folder / "state")}))  # fmt: skip
        four.sites["site03"].settings = load_site(path)
        self.refused(four, lambda site, request: request)

    def test_other_keys_shown_to_one_site(self, four):
        """Both are signed, from two sets of keys of one site: envelopes between those who saw others do not open."""
        other = four.ask("site03", _keys_request(four, 50)).keys

        def bend(site, request):
            if request.phase != "+shares" or site != "site00":
                return request
            keys = request.arrays["keys"].copy()
            keys[3] = other
            return replace(request, arrays={**request.arrays, "keys": keys})

        self.refused(four, bend)

    def test_both_shares_of_one_member(self, tmp_path):
        hospitals = Hospitals(tmp_path, 5)
        TestTraining().opened(hospitals)
        site, request = hospitals.last("reveal")
        without = request.arrays["secure.sent"][1:]
        with pytest.raises(Refused) as refused:
            hospitals.ask(site, replace(request, arrays={**request.arrays, "secure.sent": without}))
        assert refused.value.code == RefusalCode.BAD_REQUEST

    def test_a_sum_of_fewer_than_were_weighed(self, four):
        def bend(site, request):
            if not request.phase.endswith("+reveal"):
                return request
            return replace(request, arrays={**request.arrays, "secure.sent": np.array([0, 1, 2])})

        self.refused(four, bend)

    def test_a_sum_of_two(self, four):
        def bend(site, request):
            if not request.phase.endswith("+reveal"):
                return request
            return replace(request, arrays={**request.arrays, "secure.sent": np.array([0, 1])})

        self.refused(four, bend, step="risk", phase="fit")

    def test_sizes_of_other_sites_than_the_sums(self, four):
        """One site is told that three were weighed: its share then fits none of the others'."""

        def bend(site, request):
            if not request.phase.endswith("+weigh") or site != "site00":
                return request
            arrays = {
                "secure.sent": np.array([0, 1, 2]),
                "secure.envelopes": request.arrays["secure.envelopes"][:3],
            }
            return replace(request, arrays={**request.arrays, **arrays})

        self.refused(four, bend)

    def test_one_sites_sizes_handed_on_for_anothers(self, four):
        def bend(site, request):
            if not request.phase.endswith("+weigh"):
                return request
            rows = request.arrays["secure.envelopes"].copy()
            rows[1] = rows[2]
            return replace(request, arrays={**request.arrays, "secure.envelopes": rows})

        self.refused(four, bend)

    def test_a_second_question_under_the_same_masks(self, four):
        four.sums("score").add("moments", 0, {})
        site, request = four.last("evidence")
        for other in (
            replace(request, phase="newton+evidence"),
            replace(request, arrays={**request.arrays, "coef": np.ones(2)}),
            replace(request, arrays={**request.arrays, "secure.round": np.array([7])}),
        ):
            with pytest.raises(Refused):
                four.ask(site, other)

    def test_a_replayed_set_of_keys(self, four):
        four.sums("score").add("moments", 0, {})
        site, request = next((s, r) for s, r in four.sent if r.phase == "+shares")
        other = replace(request, arrays={**request.arrays, "keys": request.arrays["keys"][:, ::-1]})
        with pytest.raises(Refused):
            four.ask(site, other)

    def test_parts_that_are_none(self, four):
        four.sums("score").add("moments", 0, {})
        for _, request in list(four.sent):
            for name in request.arrays:
                arrays = {key: array for key, array in request.arrays.items() if key != name}
                if name in ("weights", "coef"):
                    continue
                with pytest.raises(Refused):
                    four.ask("site01", replace(request, arrays=arrays, round=request.round + 64))


def _keys_request(hospitals, number):
    return Request(hospitals.study.sha256, RUN, "score", "+keys", number, {"sums": np.array([16])})
