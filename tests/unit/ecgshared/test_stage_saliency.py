"""saliency: attributions against captum, means against a loop, and a net whose lead and phase are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from federated_stages import UNGATED, Federation, site_data, study, typed

from ecgshared.ecg.beats import median_beat
from ecgshared.ecg.leads import LEADS
from ecgshared.learning.attribution import attribution
from ecgshared.learning.layout import Layout
from ecgshared.models import build
from ecgshared.models.config import HeadSpec
from ecgshared.models.resnet1d import Resnet1dConfig
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.saliency import BEAT_PHASES, phase_of
from ecgshared.stages.train_net import built
from server.report.sections import Panels, Table
from server.rounds.step_context import Artefact
from server.stages.saliency import report

FS, SECONDS = 100.0, 6
MODEL = {"blocks": 1, "width": 8, "groups": 2, "hidden": 4, "dropout": 0.0}
STEPS = [
    {"id": "cohorts", "stage": "describe"},
    {"id": "net", "stage": "train", "uses": ["cohorts"], "heads": ["event"], "model": MODEL},
    {"id": "look", "stage": "saliency", "uses": ["net"], "head": "net.event", "most_patients": 60, "at_least": 20},
]
INPUT = {"fs_hz": FS, "seconds": SECONDS, "band_hz": [0.5, 40]}


@pytest.fixture(autouse=True)
def _state_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def beats(rng, n):
    """ECGs with a QRS every 0.8 s or so and a T wave behind it, a size of its own in each lead."""
    t = np.arange(int(FS * SECONDS)) / FS
    out = np.zeros((n, 12, len(t)))
    for i in range(n):
        for at in np.arange(0.4 + 0.2 * rng.random(), SECONDS, 0.75 + 0.1 * rng.random()):
            qrs, wave = np.exp(-(((t - at) / 0.02) ** 2)), np.exp(-(((t - at - 0.25) / 0.05) ** 2))
            size = 1 + 0.3 * rng.random(12)
            out[i] += size[:, None] * (qrs + 0.3 * wave)
    return out + 0.01 * rng.standard_normal(out.shape)


def hospital(seed, patients):
    data = site_data(seed, patients, split="lockbox")
    signals = beats(np.random.default_rng(seed), len(data))
    return replace(data, signals=np.round(1000 * signals).astype(np.int16), fs_hz=FS)


def federation(data, limits=UNGATED, model=None, **step):
    steps = [STEPS[0], STEPS[1] | {"model": MODEL | (model or {})}, STEPS[2] | step]
    made = Federation(study(steps, input=INPUT), data, limits)
    train = made.study.step("net")
    net = built(train, made.study)
    weights = Layout.of(net, train.layout_mode).flatten(net)
    standardise = np.array([[60.0, 15.0], [0.5, 0.5], [27.0, 4.0], [0.5, 0.1]])
    made.artefacts = {
        "cohorts": Artefact("cohorts", "describe", None, {}),
        "net": Artefact("net", "train", None, {"weights": weights, "standardise": standardise}),
    }
    return made, net


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_attributions_equal_captum_s():
    captum = pytest.importorskip("captum.attr")
    net = build(Resnet1dConfig(**MODEL), [HeadSpec("a"), HeadSpec("b")], 200, 3, torch.float64).eval()
    x = torch.randn(4, 12, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    beside = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def output(at):
        return net(at, beside.repeat(len(at) // 4, 1))[:, 1]

    ours = attribution(output, x, "gradient_x_input")
    theirs = captum.InputXGradient(output).attribute(x)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-10, atol=1e-12)
    ours = attribution(output, x, "integrated_gradients", 40)
    theirs = captum.IntegratedGradients(output).attribute(x, n_steps=40, method="gausslegendre", internal_batch_size=4)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_integrated_gradients_add_up_to_the_output_less_that_of_a_flat_ecg():
    # Of the size of leads the logarithm is taken, which no few points follow down to a flat ECG.
    net = build(Resnet1dConfig(**MODEL, lead_scale=False), [HeadSpec("a")], 200, 3, torch.float64).eval()
    x = torch.randn(3, 12, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    beside = torch.zeros(3, 2, dtype=torch.float64)
    whole = attribution(lambda at: net(at, beside)[:, 0], x, "integrated_gradients", 200).sum(dim=(1, 2))
    want = net(x, beside)[:, 0] - net(torch.zeros_like(x), beside)[:, 0]
    torch.testing.assert_close(whole, want.detach(), rtol=0.02, atol=1e-3)


def test_a_site_s_map_is_the_mean_over_its_patients():
    data = {"a": hospital(1, 30)}
    made, net = federation(data | {"b": hospital(2, 25), "c": hospital(3, 40)}, most_patients=60)
    result = made.run()["look"].result
    d = data["a"]
    assert result["sites"]["a"]["patients"] == 30
    # Fewer than the step takes: all are taken, one ECG each, and which one is the site's draw; every lead has a share.
    shares = result["sites"]["a"]["share"]
    assert sum(value for phases in shares.values() for value in phases.values()) == pytest.approx(1.0, abs=1e-9)
    single = replace(d, signals=np.repeat(d.signals[:1], len(d), axis=0), age=d.age * 0 + 60, male=d.male * 0 + 1)
    made, net = federation({"a": single, "b": hospital(2, 25), "c": hospital(3, 40)}, method="gradient_x_input")
    own = made.run()["look"].result["sites"]["a"]
    ecg = torch.as_tensor(single.signals[:1] / 1000.0, dtype=torch.float32)
    beside = torch.tensor([[0.0, 1.0]])
    share = attribution(lambda at: net.eval()(at, beside)[:, 0], ecg, "gradient_x_input").double().numpy()[0]
    size = np.abs(share) / np.abs(share).sum()
    phase = phase_of(size.shape[1], median_beat(ecg[0].numpy(), FS).qrs, FS)
    for k, lead in enumerate(LEADS):
        for p, name in enumerate(BEAT_PHASES):
            assert own["share"][lead][name] == pytest.approx(size[k, phase == p].sum(), abs=1e-6)
            assert own["error"][lead][name] == pytest.approx(0.0, abs=1e-6)


def test_sites_together_weigh_by_patients():
    result = federation({"a": hospital(1, 30), "b": hospital(2, 45), "c": hospital(3, 40)})[0].run()["look"].result
    a, b, both = result["sites"]["a"], result["sites"]["b"], result["pooled"]["training"]
    assert both["patients"] == 75
    for name in BEAT_PHASES:
        want = (30 * a["share"]["V2"][name] + 45 * b["share"]["V2"][name]) / 75
        assert both["share"]["V2"][name] == pytest.approx(want, abs=1e-12)


def test_a_net_of_one_lead_has_all_its_output_from_there():
    made, _ = federation({"a": hospital(1, 30), "b": hospital(2, 30), "c": hospital(3, 30)}, model={"leads": ["aVL"]})
    shares = made.run()["look"].result["pooled"]["zero_shot"]["share"]
    assert sum(shares["aVL"].values()) == pytest.approx(1.0, abs=1e-9)
    assert max(value for lead, phases in shares.items() if lead != "aVL" for value in phases.values()) == 0.0


def test_a_draw_is_of_all_or_of_no_more_than_half_and_a_small_hospital_tells_nothing():
    data = {"a": hospital(1, 70), "b": hospital(2, 15), "c": hospital(3, 60)}
    result = federation(data, DisclosureLimits())[0].run()["look"].result["sites"]
    # 60 of 70 were two draws that differ by ten; half of them are 35.
    assert result["a"]["patients"] == 35
    assert result["b"]["patients"] is None
    assert result["b"]["share"]["I"]["QRS"] is None
    assert result["c"]["patients"] == 60


def test_phases_are_those_of_the_nearest_beat():
    phase = phase_of(200, np.array([50, 130]), 100.0)
    names = [BEAT_PHASES[i] for i in phase[[22, 44, 50, 58, 70, 94, 105, 130, 180]]]
    assert names == ["P", "QRS", "QRS", "ST", "T", "between", "P", "QRS", "between"]
    assert set(phase_of(10, np.zeros(0, dtype=np.int64), 100.0)) == {len(BEAT_PHASES) - 1}


def test_the_report_has_leads_and_the_course_along_the_beat():
    made, _ = federation({"a": hospital(1, 30), "b": hospital(2, 30), "c": hospital(3, 30)})
    (section,) = report(typed(made.run()["look"]))
    tables = [b for b in section.blocks if isinstance(b, Table)]
    assert [row[0] for row in tables[0].rows] == [*LEADS, "all leads"]
    panels = next(b for b in section.blocks if isinstance(b, Panels))
    assert len(panels.panels) == 12


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"head": "net.death"}, "is no head"),
        ({"most_patients": 20, "at_least": 40}, "more than most_patients"),
        ({"method": "shap"}, "gradient_x_input"),
    ],
)
def test_a_step_that_cannot_be_is_refused(step, words):
    with pytest.raises(ValueError, match=words):
        study([*STEPS[:2], STEPS[2] | step], input=INPUT)
