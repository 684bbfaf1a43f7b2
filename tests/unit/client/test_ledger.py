"""The privacy ledger: composition, the cap, crashes, many processes, full disks, and hands that edit it."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant

from client.egress.ledger import Ledger
from client.site.settings import PrivacyCap
from ecgshared.errors import PrivacyError, RefusalCode, Refused
from ecgshared.privacy.accounting import ALPHAS, PrivacyPlan, Spent, epsilon_spent, plan_privacy
from ecgshared.privacy.config import PrivacyConfig

STUDY, OTHER = "a" * 64, "b" * 64
CAP = PrivacyCap(max_epsilon=10.0, max_delta=1e-4)
FORK = multiprocessing.get_context("fork")


def plan(sigma=1.3, rate=0.05, *, delta=1e-5, accountant="rdp"):
    return PrivacyPlan(rate, sigma, 1.0, 16, 200, 0.0, delta, accountant)


def charge(ledger, round=1, *, study=STUDY, run="first", step="risk", steps=40, plan=plan(), cap=CAP):
    return ledger.charge(
        study=study, study_name="risk", run=run, step=step, round=round, steps=steps, plan=plan, cap=cap
    )


def refusal(call, *args, **kwargs):
    with pytest.raises(Refused) as refused:
        call(*args, **kwargs)
    return refused.value.code


def database(state: Path) -> Path:
    return state / "privacy" / "ledger.sqlite"


def in_child(work) -> int:
    """Run ``work`` in a forked process; return its exit status, negative where a signal ended it."""
    process = FORK.Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


class TestComposition:
    def test_all_rounds_cost_what_one_accountant_says_of_all_steps(self, tmp_path):
        """Different noise, rates and steps over two steps and two runs, against Opacus stepping through them."""
        ledger, opacus = Ledger(tmp_path), RDPAccountant()
        plans = {"risk": plan(1.3, 0.05), "ef": plan(2.1, 0.11)}
        for run in ("first", "second"):
            for number in (1, 2):
                for step, work in (("risk", 40), ("ef", 15)):
                    last = charge(ledger, number, run=run, step=step, steps=work, plan=plans[step])
                    for _ in range(work):
                        opacus.step(noise_multiplier=plans[step].noise_multiplier, sample_rate=plans[step].sample_rate)
        expected = opacus.get_epsilon(delta=1e-5, alphas=ALPHAS)
        assert last == pytest.approx(expected, rel=1e-9)
        assert ledger.spent(STUDY) == (pytest.approx(expected, rel=1e-9), 1e-5)
        assert expected < sum(epsilon_spent([c.spent], delta=1e-5) for c in ledger.entries())

    @settings(deadline=None, max_examples=4)
    @given(
        st.lists(
            st.tuples(
                st.floats(0.8, 4.0), st.floats(0.001, 0.2), st.integers(1, 60), st.sampled_from([1e-5, 1e-6, 1e-7])
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_what_is_spent_never_falls_and_is_never_below_the_truth(self, charges):
        with tempfile.TemporaryDirectory() as folder:
            ledger, before, history = Ledger(Path(folder)), 0.0, []
            for number, (sigma, rate, steps, delta) in enumerate(charges, start=1):
                now = charge(
                    ledger, number, steps=steps, plan=plan(sigma, rate, delta=delta), cap=PrivacyCap(max_epsilon=1e6)
                )
                history.append(Spent(sigma, rate, steps))
                assert now >= before
                assert now >= epsilon_spent(history, delta=max(c[3] for c in charges[:number]))
                before = now
            assert ledger.spent(STUDY)[0] == before

    def test_mixed_accountants_are_counted_by_the_looser(self, tmp_path):
        ledger = Ledger(tmp_path)
        tight = charge(ledger, 1, plan=plan(accountant="prv"))
        mixed = charge(ledger, 2)
        assert tight == pytest.approx(epsilon_spent([Spent(1.3, 0.05, 40)], delta=1e-5, accountant="prv"))
        assert mixed == epsilon_spent([Spent(1.3, 0.05, 80)], delta=1e-5, accountant="rdp")

    def test_studies_have_budgets_of_their_own_and_a_total(self, tmp_path):
        ledger = Ledger(tmp_path)
        one = charge(ledger)
        assert charge(ledger, study=OTHER) == one
        assert ledger.total() == (epsilon_spent([Spent(1.3, 0.05, 80)], delta=1e-5), 1e-5)
        assert Ledger(tmp_path / "new").total() == (0.0, 0.0)
        assert not (tmp_path / "new").exists()


class TestCap:
    def test_a_plan_that_spends_the_cap_exactly_is_granted_to_its_last_round(self, tmp_path):
        ledger, cap = Ledger(tmp_path), PrivacyCap(max_epsilon=2.0, max_delta=1e-5)
        made = plan_privacy(
            PrivacyConfig(epsilon=50, delta=1e-5), patients=1000, steps_total=5 * 20, max_epsilon=cap.max_epsilon
        )
        epsilons = [charge(ledger, number, steps=20, plan=made, cap=cap) for number in range(1, 6)]
        assert epsilons == sorted(epsilons)
        assert epsilons[-1] == made.epsilon <= 2.0
        assert refusal(charge, ledger, 6, steps=1, plan=made, cap=cap) is RefusalCode.BUDGET_SPENT
        assert refusal(charge, ledger, 1, run="again", steps=20, plan=made, cap=cap) is RefusalCode.BUDGET_SPENT
        assert len(ledger.entries()) == 5

    def test_no_noise_is_never_granted(self, tmp_path):
        for bad in (plan(0.0), plan(float("nan")), plan(float("inf")), plan(1.0, 0.0), plan(1.0, 1.5), plan(delta=0)):
            assert refusal(charge, Ledger(tmp_path), plan=bad) is RefusalCode.PRIVACY_REQUIRED
        assert refusal(charge, Ledger(tmp_path), steps=0) is RefusalCode.PRIVACY_REQUIRED

    def test_epsilon_is_counted_at_the_delta_the_site_grants(self, tmp_path):
        strict = PrivacyCap(max_epsilon=10.0, max_delta=1e-9)
        assert charge(Ledger(tmp_path), cap=strict) == epsilon_spent([Spent(1.3, 0.05, 40)], delta=1e-9)


class TestOncePerAnswer:
    def test_a_round_begun_again_costs_nothing_until_it_was_answered(self, tmp_path):
        ledger = Ledger(tmp_path)
        once = charge(ledger)
        assert charge(Ledger(tmp_path)) == once
        assert [c.answered for c in ledger.entries()] == [False]
        ledger.answered()
        assert charge(ledger) > once
        assert [c.answered for c in ledger.entries()] == [True, False]

    def test_two_answers_of_one_charge_are_not_made(self, tmp_path):
        """Two processes train the same round: the slower one must not let its own noise out for one price."""
        fast, slow = Ledger(tmp_path), Ledger(tmp_path)
        charge(slow)
        charge(fast)
        fast.answered()
        assert refusal(slow.answered) is RefusalCode.INTERNAL
        assert len(fast.entries()) == 1

    def test_an_answer_closes_what_was_charged_through_the_same_object(self, tmp_path):
        begun = Ledger(tmp_path)
        charge(begun)
        charge(Ledger(tmp_path), 2)
        begun.answered()
        begun.answered()
        Ledger(tmp_path / "nothing charged").answered()
        assert [c.answered for c in begun.entries()] == [True, False]
        assert not (tmp_path / "nothing charged").exists()

    def test_another_plan_for_the_same_round_is_a_charge_of_its_own(self, tmp_path):
        ledger = Ledger(tmp_path)
        once = charge(ledger)
        assert charge(ledger, plan=plan(1.2)) > once
        ledger.answered()
        assert all(c.answered for c in ledger.entries())

    def test_each_round_step_and_run_is_charged(self, tmp_path):
        ledger = Ledger(tmp_path)
        spent = [charge(ledger), charge(ledger, 2), charge(ledger, 2, step="ef"), charge(ledger, 2, run="second")]
        assert spent == sorted(set(spent))


def _dying(at: str):
    """Return a Connection that kills its process with -9 before or after a COMMIT."""

    class Dying(sqlite3.Connection):
        def execute(self, sql, *args):
            if sql == "COMMIT" and at == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = super().execute(sql, *args)
            if sql == "COMMIT":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

    return Dying


class TestCrashes:
    @pytest.mark.parametrize(("at", "rounds"), [("before", [1]), ("after", [1, 2])])
    def test_killed_before_and_after_the_commit(self, tmp_path, monkeypatch, at, rounds):
        """Before: nothing was spent and nothing trained. After, before the anchor: spent, and found again."""
        ledger = Ledger(tmp_path)
        first = charge(ledger)
        connect = sqlite3.connect

        def work():
            monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=_dying(at)))
            charge(Ledger(tmp_path), 2)

        assert in_child(work) == -signal.SIGKILL
        assert [c.round for c in ledger.entries()] == rounds
        both = charge(ledger, 2)
        assert both > first
        assert [c.round for c in ledger.entries()] == [1, 2]
        assert charge(ledger, 3) > both

    def test_what_was_granted_outlives_any_kill(self, tmp_path):
        """Processes charge without pause and are killed at any moment: no grant is lost, the chain holds."""
        granted: list[int] = []
        for turn in range(8):
            reader, writer = os.pipe()

            def work(turn=turn, writer=writer):
                for number in range(1, 1000):
                    charge(Ledger(tmp_path), 1000 * turn + number, steps=1, plan=plan(50.0))
                    os.write(writer, f"{1000 * turn + number}\n".encode())

            process = FORK.Process(target=work)
            process.start()
            os.close(writer)
            with os.fdopen(reader) as lines:
                for _ in range(turn + 1):
                    granted.append(int(lines.readline()))
                process.kill()
                granted += [int(line) for line in lines if line.endswith("\n")]
            process.join()
        rounds = [c.round for c in Ledger(tmp_path).entries()]
        assert len(granted) >= 36
        assert set(granted) <= set(rounds)
        assert len(rounds) == len(set(rounds))

    def test_a_crash_while_the_ledger_is_made_does_not_look_like_a_loss(self, tmp_path, monkeypatch):
        def work():
            monkeypatch.setattr(os, "link", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            charge(Ledger(tmp_path))

        assert in_child(work) == -signal.SIGKILL
        assert Ledger(tmp_path).entries() == []
        assert charge(Ledger(tmp_path)) > 0


class TestManyProcesses:
    def test_charges_at_once_are_all_counted_and_stop_at_the_cap(self, tmp_path):
        """Four processes from nothing, 6 charges each, of which the cap admits 14 together."""
        cap = PrivacyCap(max_epsilon=epsilon_spent([Spent(1.3, 0.05, 14 * 40)], delta=1e-5), max_delta=1e-5)

        def work(name):
            done = 0
            for number in range(1, 7):
                try:
                    charge(Ledger(tmp_path), number, run=name, cap=cap)
                    done += 1
                except Refused as refused:
                    if refused.code is not RefusalCode.BUDGET_SPENT:
                        os._exit(0)
            os._exit(100 + done)

        processes = [FORK.Process(target=work, args=(f"run{i}",)) for i in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert sum((process.exitcode or 0) - 100 for process in processes) == 14
        entries = Ledger(tmp_path).entries()
        assert len(entries) == 14
        assert [c.epsilon for c in entries] == sorted({c.epsilon for c in entries})
        assert entries[-1].epsilon == cap.max_epsilon

    def test_a_ledger_held_by_another_process_refuses_for_now(self, tmp_path, monkeypatch):
        charge(Ledger(tmp_path))
        monkeypatch.setattr("client.egress.ledger_store.BUSY_SECONDS", 0.05)
        holder = sqlite3.connect(database(tmp_path), isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        assert refusal(charge, Ledger(tmp_path), 2) is RefusalCode.DATA_UNAVAILABLE
        assert len(Ledger(tmp_path).entries()) == 1
        holder.execute("ROLLBACK")
        holder.close()
        charge(Ledger(tmp_path), 2)


class TestDisks:
    def test_a_full_disk_refuses_and_nothing_is_spent(self, tmp_path):
        ledger = Ledger(tmp_path)
        charge(ledger)

        def work():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            try:
                charge(Ledger(tmp_path), 2)
            except Refused as refused:
                os._exit(7 if refused.code is RefusalCode.DATA_UNAVAILABLE else 1)

        assert in_child(work) == 7
        assert [c.round for c in ledger.entries()] == [1]
        charge(ledger, 2)

    @pytest.mark.parametrize("made", [True, False])
    def test_a_read_only_disk_refuses(self, made):
        """As another user where the tests run as root, whom no mode of a file stops."""
        folder = Path(tempfile.mkdtemp())
        try:
            state = folder / "state"
            state.mkdir()
            if made:
                charge(Ledger(state))
            paths = [folder, *folder.rglob("*")]
            if os.geteuid() == 0:
                for path in paths:
                    os.chown(path, 65534, 65534)
            for path in paths:
                path.chmod(0o500 if path.is_dir() else 0o400)

            def work():
                if os.geteuid() == 0:
                    os.setuid(65534)
                try:
                    charge(Ledger(state), 2)
                except Refused as refused:
                    os._exit(7 if refused.code is RefusalCode.DATA_UNAVAILABLE else 1)

            assert in_child(work) == 7
        finally:
            for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
                path.chmod(0o700)
            shutil.rmtree(folder)

    def test_only_the_owner_can_read_it(self, tmp_path):
        charge(Ledger(tmp_path))
        for path in [*tmp_path.rglob("*")]:
            assert path.stat().st_mode & 0o077 == 0, path


def _edit(sql):
    def edit(state):
        held = sqlite3.connect(database(state), isolation_level=None)
        held.execute(sql)
        held.close()

    return edit


def _damage(state):
    with database(state).open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3000)


EDITS = {
    "a cheaper charge": _edit("UPDATE line SET body = replace(body, '1.3', '9.9') WHERE seq = 2"),
    "another study": _edit(f"UPDATE line SET body = replace(body, '{STUDY}', '{OTHER}') WHERE seq = 1"),
    "the first line taken out": _edit("DELETE FROM line WHERE seq = 1"),
    "the last line taken out": _edit("DELETE FROM line WHERE seq = 3"),
    "all lines taken out": _edit("DELETE FROM line"),
    "a line put in": _edit("INSERT INTO line SELECT 4, body, mac FROM line WHERE seq = 3"),
    "two lines exchanged": _edit("UPDATE line SET body = (SELECT body FROM line AS o WHERE o.seq = 5 - line.seq)"
                                 " WHERE seq IN (2, 3)"),
    "no table": _edit("DROP TABLE line"),
    "another version": _edit("PRAGMA user_version = 0"),
    "a later version": _edit("PRAGMA user_version = 2"),
    "damaged": _damage,
    "empty": lambda state: database(state).write_bytes(b""),
    "no database": lambda state: database(state).write_bytes(b"not a database " * 100),
    "gone": lambda state: database(state).unlink(),
    "all gone but the key": lambda state: shutil.rmtree(state / "privacy"),
    "anchor gone": lambda state: (state / "keys" / "ledger.anchor").unlink(),
    "anchor damaged": lambda state: (state / "keys" / "ledger.anchor").write_text("{}"),
    "anchor of another line": lambda state: (state / "keys" / "ledger.anchor").write_text(
        (state / "keys" / "ledger.anchor").read_text().replace('"lines": 3', '"lines": 2')
    ),
    "another site's key": lambda state: (state / "keys" / "site.key").write_text("ab" * 32),
    "no key": lambda state: (state / "keys" / "site.key").unlink(),
}  # fmt: skip


@pytest.fixture(scope="module")
def three_charges(tmp_path_factory):
    state = tmp_path_factory.mktemp("ledger")
    for number in (1, 2, 3):
        charge(Ledger(state), number)
    return state


class TestHands:
    @pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
    def test_an_edited_ledger_is_closed(self, tmp_path, three_charges, edit):
        state = tmp_path / "state"
        shutil.copytree(three_charges, state)
        ledger = Ledger(state)
        assert len(ledger.entries()) == 3
        charge(ledger, 3)
        edit(state)
        with pytest.raises(PrivacyError, match=r"privacy ledger|key is lost"):
            ledger.spent(STUDY)
        assert refusal(charge, ledger, 4) is RefusalCode.BUDGET_SPENT
        assert refusal(charge, ledger, 1) is RefusalCode.BUDGET_SPENT
        assert refusal(ledger.answered) is RefusalCode.BUDGET_SPENT

    def test_an_older_copy_is_noticed(self, tmp_path):
        ledger, backup = Ledger(tmp_path / "state"), tmp_path / "backup"
        charge(ledger)
        shutil.copytree(tmp_path / "state" / "privacy", backup)
        charge(ledger, 2)
        shutil.rmtree(tmp_path / "state" / "privacy")
        shutil.copytree(backup, tmp_path / "state" / "privacy")
        with pytest.raises(PrivacyError, match="older than its anchor"):
            ledger.entries()

    def test_an_untouched_ledger_reads_the_same_elsewhere(self, tmp_path):
        """The whole state copied is a backup that opens: the same charges, to the last bit."""
        ledger = Ledger(tmp_path / "state")
        charge(ledger, plan=plan(2.3456789012345678, 1 / 30))
        ledger.answered()
        shutil.copytree(tmp_path / "state", tmp_path / "copy")
        assert Ledger(tmp_path / "copy").entries() == ledger.entries()
        assert ledger.entries()[0].spent == Spent(2.3456789012345678, 1 / 30, 40)
