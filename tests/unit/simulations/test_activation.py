"""Hearts of tissue: fronts, blocks, scars, fibrosis, and what the leads see of them by the usual criteria."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ecgshared.ecg.beats import median_beat
from ecgshared.ecg.input import InputConfig
from ecgshared.ecg.terminal import terminal_slopes
from ecgshared.errors import ConfigError
from simulations.generation.forward import Forward, Move, draw_cohort
from simulations.judging.mechanism import cross, draw_mechanism
from simulations.patients.activation import bodies_of, record_activation, regular_leads
from simulations.patients.ailments import AilmentsConfig, draw_states, healthy_states
from simulations.patients.people import draw_people
from simulations.patients.scenario import PopulationConfig, load_scenario
from simulations.physics.beats import APART, Bodies, activation_of, atrial_beats, chest_of, ventricular_beats
from simulations.physics.conduction import BLOCKS, Ailments, none_of
from simulations.physics.cycle import EARLY_STEPS, LEAD_STEPS, STEP_MS, region_fields
from simulations.physics.disease import WaveformEffects
from simulations.physics.fronts import ACROSS_M_S, ALONG_M_S, NAMES, PURKINJE, atrial_fronts, ventricular_fronts
from simulations.physics.heart import dipole, reference_heart, regular_rhythm
from simulations.physics.rhythms import FOCUS, RHYTHMS, Pace, draw_rhythm
from simulations.physics.tissue import SCARS, ventricles
from simulations.physics.torso import REFERENCE_HEART_CM, Anatomy, reference_electrodes, twelve
from simulations.physics.traits import NAMES as TRAITS
from simulations.physics.traits import Traits, healthy

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
N = 60
BEGIN = LEAD_STEPS


def hearts(n=N, *, ailments=None, fibrosis=0.0, seed=0, electrodes=None, turn_deg=(0, 0, 0), shift_cm=(0, 0, 0)):
    """Healthy men and women of 60 with their own scatter, the same whatever ails them."""
    rng = np.random.default_rng(seed)
    given = healthy()
    own = rng.standard_normal((n, given.factor.shape[1]))
    values = given.mean + given.decade + 0.5 * given.male + 0.7 * own @ given.factor.T
    for name, more in zip(("frontal", "vertical", "tilt"), np.deg2rad(turn_deg), strict=True):
        values[:, TRAITS.index(name)] += more
    for name, more in zip(("left", "back", "up"), shift_cm, strict=True):
        values[:, TRAITS.index(name)] += more
    place = reference_electrodes(n) if electrodes is None else electrodes
    chosen = none_of(n) if ailments is None else ailments
    return Bodies(
        Traits(values), chosen, np.full(n, float(fibrosis)), rng.standard_normal((n, 3)), place, np.zeros(n)
    )  # fmt: skip


def leads_of(bodies, focus=None):
    """Twelve leads of one beat, 2 ms a step from 30 ms before its beginning, shape = (n, 12, 450)."""
    waves = ventricular_beats(bodies, focus)
    eight = waves.late[:, :8].copy()
    eight[:, :, :EARLY_STEPS] += waves.early[:, :8]
    return twelve(eight)


def qrs_of(bodies, focus=None):
    return twelve(ventricular_beats(bodies, focus).early[:, :8])


def qrs_ms(bodies, focus=None):
    """When nearly all muscle has been reached."""
    out = np.empty(len(bodies.fibrosis))
    for part in activation_of(bodies, focus):
        out[part.rows] = np.percentile(part.activation_ms, 99, axis=1)
    return out


def axis_deg(qrs):
    return np.degrees(np.arctan2(2 / np.sqrt(3) * qrs[:, 5].sum(1), qrs[:, 0].sum(1)))


def with_block(name, n=N):
    block = np.zeros((n, 4), dtype=bool)
    block[:, BLOCKS.index(name)] = True
    healthy_ = none_of(n)
    return Ailments(block, healthy_.scar, healthy_.hypertrophy, healthy_.paced)


def with_scar(name, n=N):
    healthy_ = none_of(n)
    return Ailments(healthy_.block, np.full(n, name), healthy_.hypertrophy, healthy_.paced)


def lead(x, name):
    return x[:, LEADS.index(name)]


class TestTissue:
    def test_walls_weigh_what_hearts_weigh(self):
        tissue = ventricles()
        volume = 0.3**3 * np.array([tissue.left.sum(), (~tissue.left).sum()])
        assert 90 < volume[0] < 150
        assert 20 < volume[1] < 50

    @pytest.mark.parametrize("scar", SCARS)
    def test_a_heart_all_excited_has_no_dipole(self, scar):
        sources = ventricular_fronts(scar).sources
        assert np.abs(np.asarray(sources.sum(axis=1))).max() < 1e-10
        assert abs(sources).sum() > 1

    def test_regions_are_ten_to_twenty_and_none_is_empty(self):
        counts = np.bincount(ventricles().region)
        assert 10 <= len(counts) <= 20
        assert counts.min() > 100


class TestFronts:
    def test_velocities_are_those_of_muscle(self):
        fronts = ventricular_fronts("none", "neither")
        tissue = fronts.tissue
        wall = tissue.left & (tissue.depth > 0.35) & (tissue.depth < 0.75)
        focus = NAMES.index("left epicardium, lateral")
        origin = tissue.own[int(fronts.delay_ms[focus].argmin())]
        away = np.linalg.norm(tissue.own - origin, axis=1)
        near = wall & (away > 1.2) & (away < 2.5)
        speed = away[near] / fronts.delay_ms[focus, near] * 10  # m/s
        assert np.percentile(speed, 2) > 0.85 * ACROSS_M_S
        assert np.percentile(speed, 98) < 1.15 * ALONG_M_S

    def test_the_septum_is_crossed_from_left_to_right_first(self):
        fronts, septum = ventricular_fronts(), NAMES.index("septal fascicle")
        tissue = fronts.tissue
        middle = tissue.left & (np.abs(tissue.angle_deg()) < 20) & (np.abs(tissue.own[:, 2] - 2.6) < 0.8)
        reached = fronts.delay_ms[septum]
        assert reached[middle & (tissue.depth < 0.3)].mean() < 15
        assert 20 < reached[middle & (tissue.depth > 0.8)].mean() < 45

    def test_a_healthy_heart_is_reached_in_80_to_105_ms_and_its_base_last(self):
        took = qrs_ms(hearts())
        assert 72 < np.median(took) < 105
        part = activation_of(hearts())[0]
        tissue = part.fronts.tissue
        last = part.activation_ms > np.percentile(part.activation_ms, 97, axis=1, keepdims=True)
        assert (last @ tissue.own[:, 2] / last.sum(axis=1)).mean() < tissue.own[:, 2].mean() - 1

    def test_atria_take_80_to_120_ms_the_right_one_first(self):
        delay, left = atrial_fronts().delay_ms[0], atrial_fronts().tissue.left
        assert 80 < delay.max() < 120
        assert delay[~left].mean() < delay[left].mean() - 15

    def test_a_dead_branch_is_gone_round(self):
        whole, scarred = ventricular_fronts(), ventricular_fronts("inferior")
        assert len(scarred.tissue.cell) < len(whole.tissue.cell) - 200
        assert scarred.delay_ms[PURKINJE].min(axis=0).max() > whole.delay_ms[PURKINJE].min(axis=0).max()


class TestPatterns:
    """By the criteria of AHA/ACCF/HRS 2009; each of most hearts, as in people."""

    def test_left_bundle_branch_block(self):
        bodies = hearts(ailments=with_block("left_bundle"))
        took, x = qrs_ms(bodies), qrs_of(bodies)
        assert 130 < np.median(took) < 180
        v1, v6 = lead(x, "V1"), lead(x, "V6")
        assert (-v1.min(1) > 2 * v1.max(1)).mean() > 0.8  # QS or rS
        begin = v6[:, BEGIN : BEGIN + 15]
        assert (begin.min(1) > -0.08).mean() > 0.8  # no q
        peak = (lead(x, "V5").argmax(1) - BEGIN) * STEP_MS
        assert (peak > 45).mean() > 0.5
        # T turns against QRS.
        full = leads_of(bodies)
        late = full[:, [6, 7], 150:].mean(axis=2)
        assert (late > 0).mean() > 0.9

    def test_right_bundle_branch_block(self):
        healthy_, bodies = hearts(), hearts(ailments=with_block("right_bundle"))
        assert 110 < np.median(qrs_ms(bodies)) < 160
        before, after = qrs_of(healthy_), qrs_of(bodies)
        end = slice(BEGIN + 40, BEGIN + 75)  # 80 to 150 ms
        assert (lead(after, "V1")[:, end].mean(1) > lead(before, "V1")[:, end].mean(1)).mean() > 0.9
        assert (lead(after, "V1")[:, end].max(1) > 0.05).mean() > 0.6  # r'
        assert (lead(after, "I")[:, end].mean(1) < lead(before, "I")[:, end].mean(1)).mean() > 0.8  # wide s

    def test_left_anterior_fascicular_block(self):
        healthy_, bodies = hearts(), hearts(ailments=with_block("left_anterior"))
        moved = axis_deg(qrs_of(bodies)) - axis_deg(qrs_of(healthy_))
        assert -95 < np.median(moved) < -30
        x = qrs_of(bodies)
        assert (axis_deg(x) < -25).mean() > 0.5
        assert np.median(qrs_ms(bodies)) < 120
        later = lead(x, "aVL").argmax(1) - lead(qrs_of(healthy_), "aVL").argmax(1)
        assert np.median(later) * STEP_MS > 5

    def test_left_posterior_fascicular_block_turns_to_the_right(self):
        bodies = hearts(ailments=with_block("left_posterior"))
        moved = axis_deg(qrs_of(bodies)) - axis_deg(qrs_of(hearts()))
        assert np.median(moved) > 10

    @pytest.mark.parametrize(("scar", "where"), [("inferior", ("III", "aVF")), ("anterior", ("V2", "V3"))])
    def test_an_infarct_takes_r_or_leaves_q_in_its_leads(self, scar, where):
        before, after = qrs_of(hearts()), qrs_of(hearts(ailments=with_scar(scar)))
        for name in where:
            height = lead(after, name).max(1) - lead(before, name).max(1)
            depth = lead(after, name)[:, BEGIN : BEGIN + 20].min(1) - lead(before, name)[:, BEGIN : BEGIN + 20].min(1)
            assert ((height < -0.02) | (depth < -0.02)).mean() > 0.8

    def test_hypertrophy_raises_sokolow_lyon_and_cornell(self):
        thick = none_of(N)
        thick = Ailments(thick.block, thick.scar, np.full(N, 0.6), thick.paced)
        before, after = qrs_of(hearts()), qrs_of(hearts(ailments=thick))

        def sokolow(x):
            return -lead(x, "V1").min(1) + np.maximum(lead(x, "V5").max(1), lead(x, "V6").max(1))

        def cornell(x):
            return lead(x, "aVL").max(1) - lead(x, "V3").min(1)

        for measure in (sokolow, cornell):
            assert np.median(measure(after) / measure(before)) > 1.2

    @pytest.mark.parametrize("focus", [NAMES.index("right outflow tract"), NAMES.index("left lateral base")])
    def test_beats_from_a_focus_are_wide_and_their_t_is_discordant(self, focus):
        where = np.full(N, focus)
        assert np.median(qrs_ms(hearts(), where)) > 120
        full, early = leads_of(hearts(), where), qrs_of(hearts(), where)
        big = np.abs(early).sum(2).argmax(1)
        rows = np.arange(N)
        assert (np.sign(early[rows, big].sum(1)) == -np.sign(full[rows, big, 130:].sum(1))).mean() > 0.8

    def test_the_outflow_tracts_point_down_and_the_right_apex_up(self):
        out, apex = (np.full(N, NAMES.index(name)) for name in ("right outflow tract", "right apex"))
        assert (np.abs(axis_deg(qrs_of(hearts(), out)) - 90) < 45).mean() > 0.8
        assert (axis_deg(qrs_of(hearts(), apex)) < 0).mean() > 0.8


class TestFibrosis:
    """What the published study found, as the tissue's own doing."""

    def test_it_widens_qrs_and_turns_the_axis_left(self):
        before, after = hearts(), hearts(fibrosis=0.3)
        assert 8 < np.median(qrs_ms(after) - qrs_ms(before)) < 50
        moved = axis_deg(qrs_of(after)) - axis_deg(qrs_of(before))
        assert np.median(moved) < -15

    def test_the_end_of_qrs_falls_less_steeply_most_of_all_in_avl(self):
        def slopes(bodies):
            x, ends = qrs_of(bodies), qrs_ms(bodies)
            scaled = (x - x.min(2, keepdims=True)) / np.ptp(x, axis=2)[..., None]
            out = np.full(x.shape[:2], np.nan)
            for i, k in np.ndindex(out.shape):
                # A lead whose R stands at the end of QRS has no slope to measure.
                top, end = int(scaled[i, k, :-20].argmax()), BEGIN + int(ends[i] / STEP_MS)
                if end - top >= 8:
                    out[i, k] = np.abs(np.diff(scaled[i, k, top : end + 1])).mean()
            return out

        before, after = slopes(hearts()), slopes(hearts(fibrosis=0.3))
        ratio = np.nanmedian(after / before, axis=0)
        assert ratio[LEADS.index("aVL")] < 0.9
        assert ratio[LEADS.index("aVL")] < ratio[LEADS.index("III")]

    def test_nothing_in_the_physics_names_a_lead_or_the_end_of_qrs(self):
        from pathlib import Path

        import simulations.physics.conduction as conduction
        import simulations.physics.fronts as fronts
        import simulations.physics.tissue as tissue

        for module in (conduction, fronts, tissue):
            text = Path(module.__file__).read_text(encoding="utf-8").lower()
            assert "avl" not in text
            assert "terminal" not in text


@pytest.fixture(scope="module")
def single():
    """A function: QRS of the single dipole of 2007 through the regions' lead fields, (12, T)."""
    source = dipole(reference_heart(), regular_rhythm(np.array([60.0]), 1.0), fs=1000.0, seconds=1.0)[0, :, 440:570]

    def seen(*, turn_deg=(0, 0, 0), shift_cm=(0, 0, 0), up_cm=0.0):
        place = reference_electrodes()
        place[:, 4:6, 2] += up_cm
        chest = Anatomy(REFERENCE_HEART_CM[None] + shift_cm, np.deg2rad([turn_deg]), np.ones(1))
        fields = region_fields(chest, place, ventricles().centres_cm(), apart=0.0, depth=np.zeros(1))
        eight = fields[0, :8].reshape(8, -1, 3).mean(axis=1) @ source
        return twelve(eight[None].astype(np.float32))[0]

    return seen


class TestFourEffects:
    """Of regional dipoles seen from one place, exactly those of a single one; of hearts of tissue, in size or sign."""

    def test_v1_v2_up_4_cm(self, single):
        at, up = single(), single(up_cm=4.0)
        for row, ratio in ((6, 0.24 / 0.38), (7, 0.38 / 0.64)):
            assert up[row].max() / at[row].max() == pytest.approx(ratio, rel=0.2)

    @pytest.mark.parametrize("turn", [20, -20])
    def test_frontal_rotation(self, single, turn):
        axes = [float(axis_deg(x[None])[0]) for x in (single(), single(turn_deg=(turn, 0, 0)))]
        assert axes[1] - axes[0] == pytest.approx(np.sign(turn) * 28, rel=0.2)

    def test_rotation_about_the_vertical(self, single):
        assert single(turn_deg=(0, 20, 0))[7].min() / single()[7].min() == pytest.approx(1.76 / 1.23, rel=0.2)

    def test_2_cm_to_the_front(self, single):
        at, moved = single(), single(shift_cm=(0, -2, 0))
        change = np.sqrt(((moved - at) ** 2).sum(1) / (at**2).sum(1))[6:10]
        assert change.min() > 0.43 * 0.8
        assert change.max() < 0.57 * 1.2

    def test_hearts_of_tissue_lose_r_of_v1_as_v1_and_v2_go_up_and_keep_their_limb_leads(self):
        high = reference_electrodes(N)
        high[:, 4:6, 2] += 4.0
        at, up = qrs_of(hearts()), qrs_of(hearts(electrodes=high))
        assert np.median(lead(up, "V1").max(1) / lead(at, "V1").max(1)) < 0.97
        np.testing.assert_array_equal(at[:, :6], up[:, :6])

    def test_hearts_of_tissue_turn_and_come_near_as_a_dipole_does(self):
        at = qrs_of(hearts())
        for turn in (20, -20):
            moved = (axis_deg(qrs_of(hearts(turn_deg=(turn, 0, 0)))) - axis_deg(at) + 180) % 360 - 180
            assert np.median(moved) == pytest.approx(np.sign(turn) * 28, rel=0.25)
        near = qrs_of(hearts(shift_cm=(0, -2, 0)))
        change = np.median(np.sqrt(((near - at) ** 2).sum(2) / (at**2).sum(2))[:, 6:10], axis=0)
        assert change.min() > 0.43 * 0.7
        assert change.max() < 0.57 * 1.3

    def test_einthoven_and_goldberger(self):
        one, two, three, avr, avl, avf = leads_of(hearts(8))[:, :6].swapaxes(0, 1)
        for error in (one + three - two, avr + avl + avf, avl - (one - two / 2), avf - (two - one / 2)):
            assert np.abs(error).max() < 1e-5

    def test_regions_seen_from_one_place_are_one_dipole(self):
        bodies = hearts(4)
        chest, centres = chest_of(bodies.traits), ventricles().centres_cm()
        together = region_fields(chest, bodies.electrodes_cm, centres, apart=0.0).reshape(4, 16, -1, 3)
        np.testing.assert_allclose(together, together[:, :, :1].repeat(together.shape[2], 2), rtol=1e-5, atol=1e-6)
        spread = region_fields(chest, bodies.electrodes_cm, centres, apart=APART).reshape(4, 16, -1, 3)
        assert np.abs(spread - together).max() > 0.1


def test_obstacles_in_a_sheet_slow_the_front_and_slur_the_end_of_a_lead(tmp_path):
    plain, full = cross(0.0, 3), cross(0.4, 3)
    assert full.arrival_ms[np.isfinite(full.arrival_ms)].max() > 1.4 * plain.arrival_ms.max()
    assert full.d1.mean() < 0.7 * plain.d1.mean()
    assert full.d2.mean() < 0.8 * plain.d2.mean()
    lines = draw_mechanism(tmp_path / "sheet.png", (0.0, 0.3), 1)
    assert len(lines) == 2
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    with pytest.raises(ConfigError, match="out of range"):
        draw_mechanism(tmp_path / "no.png", (0.0, 0.9), 1)


class TestAtria:
    def test_p_is_upright_in_i_and_ii_small_in_v5_and_shorter_than_130_ms(self):
        p = twelve(atrial_beats(hearts()).early[:, :8])
        assert (lead(p, "I").sum(1) > 0).mean() > 0.8
        assert (lead(p, "II").sum(1) > 0).mean() > 0.8
        assert np.median(lead(p, "V5").max(1)) < 0.09
        assert np.median(lead(p, "II").max(1)) < 0.25

    def test_a_beat_from_low_in_the_atrium_is_another_p(self):
        sinus, low = (twelve(atrial_beats(hearts(), start).early[:, :8]) for start in (0, 1))
        assert (lead(low, "II").sum(1) < lead(sinus, "II").sum(1)).mean() > 0.9


class TestRhythms:
    @pytest.mark.parametrize("name", RHYTHMS)
    def test_each_beats_and_ends_with_its_recording(self, name):
        for seed in range(5):
            found = draw_rhythm(np.random.default_rng(seed), name, Pace(70, 0.03, 0.25, 0.1, 0.16), 10.0)
            shown = (found.qrs_s > 0) & (found.qrs_s < 10)
            assert 3 <= shown.sum() <= 30
            assert (np.diff(found.qrs_s) > 0.2).all()
            assert len(found.qrs_s) == len(found.source) == len(found.rr_s)

    def test_variability_has_the_size_that_was_asked_for_and_slow_parts(self):
        sd = []
        for seed in range(60):
            found = draw_rhythm(np.random.default_rng(seed), "sinus", Pace(60, 0.05, 0.25, seed, 0.16), 60.0)
            sd.append(np.diff(found.p_s).std())
        assert np.median(sd) == pytest.approx(0.05, rel=0.2)

    def test_an_early_ventricular_beat_has_no_p_and_a_pause_that_compensates(self):
        found = draw_rhythm(
            np.random.default_rng(3), "sinus", Pace(70, 0.0, 0.25, 0.1, 0.16, ventricular=0.3, coupling=0.6), 30.0
        )
        early = np.flatnonzero(found.source == FOCUS)
        early = early[(early > 0) & (early < len(found.qrs_s) - 1)]
        assert len(early) > 3
        for beat in early:
            around = found.qrs_s[beat + 1] - found.qrs_s[beat - 1]
            assert around == pytest.approx(2 * 60 / 70, abs=0.06)

    def test_wenckebach_lengthens_pr_until_a_beat_is_dropped(self):
        found = draw_rhythm(np.random.default_rng(1), "wenckebach", Pace(80, 0.0, 0.25, 0.1, 0.16), 30.0)
        assert len(found.p_s) > len(found.qrs_s) + 3
        rr = np.diff(found.qrs_s)
        assert rr.max() > 1.3 * rr.min()
        pr = found.qrs_s[1:7, None] - found.p_s[None]
        assert np.ptp(np.where(pr > 0, pr, np.inf).min(axis=1)) > 0.03

    def test_fibrillation_is_irregular_and_flutter_conducts_by_whole_turns(self):
        wild = draw_rhythm(np.random.default_rng(2), "fibrillation", Pace(80, 0.03, 0.25, 0.1, 0.16), 60.0)
        assert np.diff(wild.qrs_s).std() / np.diff(wild.qrs_s).mean() > 0.12
        saw = draw_rhythm(np.random.default_rng(2), "flutter", Pace(80, 0.03, 0.25, 0.1, 0.16), 60.0)
        turns = np.diff(saw.qrs_s) / saw.flutter_s
        np.testing.assert_allclose(turns, turns.round(), atol=1e-6)
        assert len(wild.p_s) == len(saw.p_s) == 0


class TestAilments:
    def test_they_grow_with_age_and_scars_with_a_low_ejection_fraction(self):
        rng = np.random.default_rng(0)
        n = 20_000
        people = draw_people(rng, PopulationConfig(patients=n, age_sd=14), n)
        states = draw_states(rng, people, AilmentsConfig(), np.zeros(n, dtype=bool))
        old = people.age > 70
        assert states.ailments.block[old].any(1).mean() > 1.5 * states.ailments.block[~old].any(1).mean()
        scarred = states.ailments.scar != "none"
        assert people.lvef[scarred].mean() < people.lvef[~scarred].mean() - 0.05
        assert not (states.ailments.block[:, 0] & states.ailments.block[:, 1]).any()
        share = (states.ailments.block[:, 1] & (np.abs(people.age - 65) < 2)).sum() / (
            np.abs(people.age - 65) < 2
        ).sum()
        assert share == pytest.approx(0.025, abs=0.012)

    def test_a_share_of_none_is_none(self):
        rng = np.random.default_rng(0)
        people = draw_people(rng, PopulationConfig(patients=500), 500)
        nothing = AilmentsConfig(**dict.fromkeys(AilmentsConfig.model_fields, 0.0))
        states = draw_states(rng, people, nothing, np.zeros(500, dtype=bool))
        assert not states.ailments.block.any()
        assert (states.rhythm == 0).all()


@pytest.mark.slow
def test_recorded_biomarker_goes_with_fibrosis_most_of_all_in_avl():
    """The study's own measurement on recordings with noise, blocks and all: Spearman's correlation by lead."""
    from scipy.stats import spearmanr

    world = load_scenario("three_countries_activation")
    hospital, rng, n = world.hospitals["sweden_university"], np.random.default_rng(0), 384
    people = draw_people(rng, hospital.population, n)
    states = draw_states(rng, people, hospital.population.ailments, np.zeros(n, dtype=bool))
    found = np.full((n, 2, 12), np.nan)
    for start in range(0, n, 64):
        rows = np.arange(start, start + 64)
        some = people.rows(rows, people.age[rows])
        ecgs = record_activation(
            rng, some, states.rows(rows), hospital, hospital.devices[0], world.waveform, world.seconds
        )
        for row, ecg in zip(rows, ecgs, strict=True):
            beat = median_beat(ecg, 500.0)
            if beat is not None:
                slopes = terminal_slopes(beat)
                found[row] = slopes.d1, slopes.d2
    goes = np.array(
        [[spearmanr(people.fibrosis, found[:, k, lead], nan_policy="omit")[0] for lead in range(12)] for k in range(2)]
    )
    print("\n" + "\n".join(f"{name:4} d1 {goes[0, i]:+.2f} d2 {goes[1, i]:+.2f}" for i, name in enumerate(LEADS)))
    assert (goes[:, LEADS.index("aVL")] < -0.4).all()
    assert (goes.argmin(axis=1) == LEADS.index("aVL")).all()
    assert (goes[:, LEADS.index("aVL")] < goes[:, LEADS.index("III")] - 0.15).all()


def test_where_fibrosis_does_not_show_the_biomarker_tells_nothing():
    hidden = hearts(fibrosis=0.0)
    shown = hearts(fibrosis=0.3)
    nothing = WaveformEffects(conduction=0, left_axis_deg=0, backward_deg=0, r_loss=0)
    rng = np.random.default_rng(0)
    people = draw_people(rng, PopulationConfig(patients=N), N)
    bodies = bodies_of(people, healthy_states(N), nothing, reference_electrodes(N), np.zeros(N))
    assert (bodies.fibrosis == 0).all()
    assert np.abs(qrs_of(shown) - qrs_of(hidden)).max() > 0.1


@pytest.fixture(scope="module")
def forward():
    """Both physics' forward models of 24 persons each, and these."""
    settings = InputConfig(fs_hz=250, seconds=6, band_hz=(0.5, 100), baseline="median")
    model = SimpleNamespace(input=settings, conditions=("age", "male", "heart_frontal_deg", "heart_left_cm"))
    worlds = {name: load_scenario(name) for name in ("uk_biobank_like", "uk_biobank_like_activation")}
    cohorts = {name: draw_cohort(model, world, 24, 1) for name, world in worlds.items()}
    return {name: Forward(cohorts[name], worlds[name], model) for name in worlds}, cohorts


class TestMovedAsAConditionalVaeIsJudged:
    """`ecgfed generate consistency` against hearts of tissue: what a move changes, and what it leaves."""

    def test_electrodes_move_their_own_leads_alone(self, forward):
        change = forward[0]["uk_biobank_like_activation"].change(Move("up", v1_v2_cm=2))
        size = np.abs(change).max(axis=(0, 2))
        assert (size[[6, 7]] > 0.05).all()
        np.testing.assert_allclose(size[[*range(6), 8, 9, 10, 11]], 0, atol=1e-6)

    def test_nothing_changes_where_nothing_moves(self, forward):
        np.testing.assert_array_equal(forward[0]["uk_biobank_like_activation"].change(Move("still")), 0)

    def test_a_heart_turns_the_same_way_in_both_physics(self, forward):
        """Limb leads of the mean person; ventricles turn alike, while atria of tissue follow by a third."""
        old, new = (f.change(Move("turned", turn_deg=(20, 0, 0))).mean(axis=0)[:6] for f in forward[0].values())
        assert np.corrcoef(old.ravel(), new.ravel())[0, 1] > 0.5

    def test_scans_find_the_turn_that_the_leads_were_made_with(self, forward):
        cohort = forward[1]["uk_biobank_like_activation"]
        turn = np.degrees(cohort.anatomy.turn_rad[:, 0])
        # By an error of two degrees.
        assert 0.5 < (cohort.values[:, 2] - turn).std() < 4
        assert turn.std() > 8

    def test_a_heart_beats_once_a_second(self):
        people, states = draw_people(np.random.default_rng(0), PopulationConfig(patients=3), 3), healthy_states(3)
        bodies = bodies_of(people, states, WaveformEffects(), reference_electrodes(3), np.zeros(3))
        eight = regular_leads(bodies, 250.0, 5.0)
        np.testing.assert_allclose(eight[:, :, 250:500], eight[:, :, 500:750], atol=1e-6)
        assert (np.abs(eight[:, 1]).max(axis=1) > 0.2).all()
