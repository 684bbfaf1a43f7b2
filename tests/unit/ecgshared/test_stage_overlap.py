"""overlap over sites, through the gate, against pandas on the pooled rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from federated_stages import CALIBRATE, UNGATED, Federation, site_data, study, typed

from client.stages.overlap import matched
from ecgshared.errors import ConfigError, Refused
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.privacy.unions import told_unions
from ecgshared.stages.overlap import GROUPS, groups_of_cells, partitions
from ecgshared.stats.rate_difference import rate_difference
from ecgshared.wire.protocol import Request
from server.report.sections import Table
from server.report.venn import Venn, circles, overlap_area
from server.rounds.step_context import Artefact
from server.stages.overlap import report

COEF = np.array([-5.0, 0.04, 0.5, 0.02, -3.0])
CUT = -1.2
STEPS = [
    CALIBRATE,
    {"id": "cut", "stage": "threshold", "uses": ["score"], "top_share": 0.1},
    {"id": "o", "stage": "overlap", "uses": ["cut"]},
]


@pytest.fixture(autouse=True)
def _state_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def hospital(seed, patients, known=0.4):
    """Ejection fraction is measured in a share of the ECGs only; the score does not read it where it is not."""
    data = site_data(seed, patients, split="lockbox", base=-2.3)
    rng = np.random.default_rng(90 + seed)
    lvef = np.where(rng.random(len(data)) < known, data.covariates["lvef"], np.nan).astype(np.float32)
    return replace(data, covariates={**data.covariates, "lvef": lvef})


def hospitals(sizes=(900, 700, 800)):
    return {site: hospital(i, n) for i, (site, n) in enumerate(zip("abc", sizes, strict=True), 1)}


def federation(data, limits=UNGATED, step=None, inputs=("age", "male", "bmi"), cut=CUT):
    coef = COEF[: len(inputs) + 1]
    steps = [STEPS[0] | {"inputs": list(inputs)}, STEPS[1], STEPS[2] | (step or {})]
    made = Federation(study(steps), data, limits)
    arrays = {"cut": np.array([cut]), "cutoff": 1 / (1 + np.exp(-np.array([cut])))}
    made.artefacts = {
        "score": Artefact("score", "calibrate", None, {"coef": coef}),
        "cut": Artefact("cut", "threshold", None, arrays),
    }
    return made


def run(data, limits=UNGATED, **keys):
    return federation(data, limits, **keys).run()["o"].result


def frame(data, sites="abc"):
    """One row an ECG with risk and outcome; nothing of ecgfed but the rows is used."""
    parts = []
    for i, site in enumerate(sites):
        d = data[site]
        eta = COEF[0] + COEF[1] * d.age + COEF[2] * d.male + COEF[3] * d.covariates["bmi"]
        low = pd.Series(d.covariates["lvef"]).map(
            lambda v: "unknown" if np.isnan(v) else "low" if v <= np.float32(0.35) else "normal"
        )
        parts.append(
            pd.DataFrame({"eta": eta.astype(float), "low": low, "y": d.labels[:, 0], "patient": d.patient + 10_000 * i})
        )
    return pd.concat(parts).dropna(subset=["eta", "y"]).reset_index(drop=True)


def expected(f, cut):
    high = f.eta >= cut
    low, normal, unknown = (f.low == name for name in ("low", "normal", "unknown"))
    return {
        "all": high | ~high,
        "high": high,
        "marker": low,
        "measured": low | normal,
        "normal": normal,
        "unknown": unknown,
        "both": high & low,
        "marker_only": ~high & low,
        "high_only": high & ~low,
        "high_normal": high & normal,
        "high_unknown": high & unknown,
        "neither": ~high & ~low,
    }


@pytest.mark.parametrize("limits", [UNGATED, DisclosureLimits()])
def test_cells_equal_those_of_pandas_on_the_pooled_rows(limits):
    data = hospitals() if limits == UNGATED else hospitals((3000, 2800, 2900))
    found = run(data, limits)["pooled"]
    for group, sites in (("training", "ab"), ("zero_shot", "c")):
        f = frame(data, sites)
        for name, inside in expected(f, CUT).items():
            got = found[group]["fixed"]["groups"][name]
            assert got["sites"] == list(sites), name
            assert got["ecgs"] == inside.sum(), name
            assert got["patients"] == f.patient[inside].nunique()
            assert got["share"] == pytest.approx(inside.mean(), abs=1e-12)
            assert got["events"] == f.y[inside].sum()
            assert got["rate"]["value"] == pytest.approx(f.y[inside].mean(), abs=1e-12)


def clustered(y, x, patient):
    return sm.OLS(y, x).fit(cov_type="cluster", cov_kwds={"groups": patient, "use_correction": False})


def test_errors_of_rates_and_differences_equal_the_pooled_computation():
    """A rate is the mean of its group; the difference of two that overlap stacks both and clusters by patient."""
    data = hospitals()
    at = run(data)["pooled"]["training"]["fixed"]
    f = frame(data, "ab")
    groups = expected(f, CUT)
    for name in ("high", "both", "high_normal"):
        mine = f[groups[name]]
        people = mine.patient.nunique()
        fit = clustered(mine.y, np.ones(len(mine)), mine.patient)
        assert at["groups"][name]["rate"]["se"] == pytest.approx(
            fit.bse.iloc[0] * np.sqrt(people / (people - 1)), rel=1e-9
        )
    for d in at["differences"]:
        parts = [f[groups[d[side]]].assign(side=float(side == "first")) for side in ("first", "second")]
        both = pd.concat(parts)
        people = both.patient.nunique()
        fit = clustered(both.y, sm.add_constant(both.side), both.patient)
        assert d["difference"]["value"] == pytest.approx(fit.params["side"], abs=1e-10)
        # The larger group's patients stand for those in either: their factor is a little larger.
        assert d["difference"]["se"] == pytest.approx(fit.bse["side"], rel=2e-3)
        assert people > 100


def test_a_group_matched_in_size_is_the_same_at_every_site_and_near_the_marker_s():
    data = hospitals()
    found = run(data)["pooled"]["training"]
    matched, marker = found["matched"]["groups"], found["fixed"]["groups"]["marker"]
    cut = np.log(found["matched"]["cutoff"] / (1 - found["matched"]["cutoff"]))
    f = frame(data, "ab")
    for name, inside in expected(f, cut - 1e-9).items():
        assert matched[name]["ecgs"] == inside.sum()
        assert matched[name]["events"] == f.y[inside].sum()
    assert matched["high"]["share"] == pytest.approx(marker["share"], rel=0.05)


def test_a_step_of_one_cut_asks_for_no_other():
    made = federation(hospitals(), step={"size_matched": False})
    assert made.run()["o"].result["pooled"]["training"]["matched"] is None
    assert "matched" not in {phase for _, phase, _ in made.sent}


def derivable(told, name):
    """Whether sums and differences of the told groups' counts give a group's."""
    cells = dict(zip(GROUPS, groups_of_cells((1,), 2), strict=True))
    rows = np.array([[float(c in cells[one]) for c in range(6)] for one in told])
    wanted = np.array([float(c in cells[name]) for c in range(6)])
    return np.linalg.matrix_rank(rows) == np.linalg.matrix_rank(np.vstack([rows, wanted]))


@pytest.mark.parametrize("few", ["both", "high_normal", "high_unknown"])
def test_a_cell_of_few_is_told_of_nobody_and_cannot_be_had_by_subtraction(few):
    data = hospitals()
    f = frame({"a": data["a"]}, "a")
    inside = expected(f, CUT)[few]
    lvef = data["a"].covariates["lvef"].copy()
    mine = np.isin(data["a"].patient, np.unique(f.patient[inside])[4:])
    is_in = {"both": lvef <= 0.35, "high_normal": lvef > 0.35, "high_unknown": np.isnan(lvef)}[few]
    lvef[mine & is_in] = {"both": 0.5, "high_normal": 0.3, "high_unknown": 0.3}[few]
    data["a"] = replace(data["a"], covariates={**data["a"].covariates, "lvef": lvef})
    groups = run(data, DisclosureLimits())["sites"]["a"]["overlap"]["fixed"]["groups"]
    for what in ("ecgs", "events"):
        told = [name for name, g in groups.items() if g[what] is not None]
        assert {"all", "high"} <= set(told)
        assert not derivable(told, few)
    assert groups["marker"]["ecgs"] is not None


def test_two_cuts_with_few_between_them_are_not_both_told():
    rng = np.random.default_rng(3)
    patient = np.arange(400)
    level = rng.integers(0, 3, 400)
    band = np.where(patient < 4, 1, np.where(patient < 150, 2, 0))
    unions = groups_of_cells((1, 2), 3)
    told = dict(
        zip(GROUPS, told_unions(unions, partitions(3), 3 * band + level, patient, DisclosureLimits()), strict=True)
    )
    assert told["all"]
    assert told["marker"]
    assert not told["high"]
    assert not told["both"]


def test_nobody_with_the_marker_known_is_no_error():
    data = hospitals()
    blank = np.full(len(data["c"]), np.nan, dtype=np.float32)
    data["c"] = replace(data["c"], covariates={**data["c"].covariates, "lvef": blank})
    groups = run(data, DisclosureLimits())["sites"]["c"]["overlap"]["fixed"]["groups"]
    assert groups["marker"]["ecgs"] == 0
    assert groups["marker"]["rate"]["value"] is None
    assert groups["unknown"]["ecgs"] == groups["all"]["ecgs"]


def test_without_a_cut_nothing_is_asked_but_the_cells_and_the_report_says_so():
    from ecgshared.stats.score_scale import HIGHEST

    made = federation(hospitals(), cut=HIGHEST)
    result = typed(made.run()["o"])
    assert result.result.cutoff is None
    assert "nobody is at high risk" in report(result)[0].blocks[0].text


def test_intervals_of_rates_hold_at_small_hospitals():
    """Three hospitals of 45 patients: the difference of two overlapping groups' rates; none with few events."""
    rng = np.random.default_rng(8)
    shown = held = 0
    for _ in range(600):
        n = 135
        risk, low = rng.random(n), rng.random(n) < 0.4
        y = rng.random(n) < 0.25 + 0.2 * (risk > 0.5)
        _, _, below, above, p = rate_difference(y, risk > 0.5, low, np.arange(n))
        if np.isfinite(below):
            shown += 1
            held += below <= 0.45 - 0.35 <= above
            assert (p < 0.05) == (below > 0 or above < 0)
    assert shown > 400
    assert 0.925 < held / shown < 0.985


def test_the_report_draws_the_circles_and_compares_the_rates():
    found = typed(federation(hospitals()).run()["o"])
    (section,) = report(found)
    drawn = [b for b in section.blocks if isinstance(b, Venn)]
    tables = [b.title for b in section.blocks if isinstance(b, Table)]
    assert len(drawn) == 2
    assert "Rates compared" in tables
    r, s, d = circles(0.022, 0.019, 0.003)
    assert overlap_area(r, s, d) == pytest.approx(0.003)
    assert np.pi * r**2 == pytest.approx(0.022)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"uses": ["score"]}, "needs a threshold step"),
        ({"marker": "troponin>1"}, "no column of the study"),
        ({"marker": "lvef<=0.35:male"}, "is a product"),
        ({"outcome": "death"}, "no endpoint"),
    ],
)
def test_a_step_that_cannot_be_is_refused(step, words):
    with pytest.raises((ConfigError, ValueError), match=words):
        study([*STEPS[:2], STEPS[2] | step])


def test_another_cut_than_the_first_asked_for_is_refused(tmp_path):
    """Two cuts with one patient between them would tell of that patient."""
    made = federation(hospitals())
    made.state = tmp_path
    arrays = {"score.coef": COEF[:4], "cut.cut": np.array([CUT])}
    for other, refused in ((-2.5, False), (-2.5, False), (-2.4, True)):
        request = Request(made.study.sha256, "run", "o", "matched", 0, arrays | {"other": np.array([other])})
        if refused:
            with pytest.raises(Refused, match="spent"):
                matched(made.context("o", "a"), request)
        else:
            matched(made.context("o", "a"), request)
