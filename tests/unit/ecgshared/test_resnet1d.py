"""The net: the published parameter counts, its input contract, and horizons that never fall."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ecgshared.errors import ModelError
from ecgshared.models import HeadSpec, build
from ecgshared.models.beat_risk import BeatRiskConfig
from ecgshared.models.heads import cumulative_logits
from ecgshared.models.resnet1d import Resnet1dConfig

NAMES = {Resnet1dConfig: "resnet1d", BeatRiskConfig: "beat_risk"}
HORIZONS = (0.25, 0.5, 1.0, 2.0)


def plain(n: int) -> list[HeadSpec]:
    return [HeadSpec(f"h{i}") for i in range(n)]


def paper_heads() -> list[HeadSpec]:
    groups = [HeadSpec(f"{event}{h}", event, h) for event in ("scd", "death") for h in HORIZONS]
    return groups + plain(8)


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(
    ("preset", "heads", "samples", "faithful", "expected"),
    [
        ("paper64", paper_heads(), 5000, True, 17_509_929),
        ("paper64", plain(9), 5000, True, 17_509_026),
        ("low_lvef", plain(1), 5000, True, 6_893_722),
        ("paper", plain(23), 300, False, 4_356_119),
    ],
)
def test_published_parameter_counts(preset, heads, samples, faithful, expected, norm):
    kind = BeatRiskConfig if preset == "paper" else Resnet1dConfig
    config = kind(name=NAMES[kind], preset=preset, norm=norm, paper_faithful=faithful)
    with torch.device("meta"):
        from ecgshared.models.resnet1d_net import Resnet1d

        model = Resnet1d(config, heads, samples)
    assert count(model) == expected
    norms = [m for m in model.modules() if isinstance(m, torch.nn.GroupNorm | torch.nn.BatchNorm1d)]
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv1d)]
    if preset == "paper64":
        assert (len(norms), len(convs)) == (99, 67)


@pytest.mark.parametrize(("samples", "preset"), [(5000, "low_lvef"), (300, "paper"), (601, "paper"), (1000, "small")])
def test_forward_shape_with_odd_lengths(samples, preset):
    kind = BeatRiskConfig if preset == "paper" else Resnet1dConfig
    config = kind(name=NAMES[kind], preset=preset, width=8)
    model = build(config, plain(3), samples, 0).eval()
    covariates = torch.zeros(2, len(config.covariates))
    assert model(torch.randn(2, 12, samples), covariates).shape == (2, 3)


def test_even_kernel_pads_seven_left_eight_right():
    from ecgshared.models.resnet1d_net import SameConv

    conv = SameConv(1, 1, 16)
    torch.nn.init.zeros_(conv.conv.bias)
    torch.nn.init.zeros_(conv.conv.weight)
    with torch.no_grad():
        conv.conv.weight[0, 0, 7] = 1.0  # the tap that lies on the sample itself
    x = torch.randn(1, 1, 40)
    torch.testing.assert_close(conv(x), x)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    a = build(Resnet1dConfig(), plain(2), 500, 7)
    torch.manual_seed(2)
    b = build(Resnet1dConfig(), plain(2), 500, 7, torch.float64)
    c = build(Resnet1dConfig(), plain(2), 500, 8)
    assert all(torch.equal(p.double(), q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(next(a.parameters()), next(c.parameters()))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-300, 300), min_size=1, max_size=6))
def test_cumulative_logits_are_monotone_and_finite(raw):
    logits = cumulative_logits(torch.tensor([raw], dtype=torch.float32, requires_grad=True))
    assert torch.isfinite(logits).all()
    assert (logits.diff(dim=1) >= 0).all()


def test_cumulative_logits_equal_the_formula():
    raw = torch.linspace(-8, 5, 4, dtype=torch.float64)[None]
    hazard = np.log1p(np.exp(raw.numpy())).cumsum(1)
    p = 1 - np.exp(-hazard)
    np.testing.assert_allclose(cumulative_logits(raw).numpy(), np.log(p / (1 - p)), rtol=1e-9)


@pytest.mark.parametrize("faithful", [False, True])
def test_heads_of_a_group_are_monotone_in_any_order(faithful):
    heads = [HeadSpec("b", "scd", 2.0), HeadSpec("x"), HeadSpec("a", "scd", 0.5), HeadSpec("c", "scd", 1.0)]
    heads.append(HeadSpec("d", "scd", 5.0))
    model = build(Resnet1dConfig(paper_faithful=faithful), heads, 400, 3).eval()
    x, covariates = torch.randn(50, 12, 400), torch.zeros(50, 2)
    logits = model(x, covariates)
    by_horizon = logits[:, [2, 3, 0, 4]]
    assert (by_horizon.diff(dim=1) >= 0).all()
    with torch.no_grad():
        model.output.weight[[0, 2, 3, 4]] += 1
    again = model(x, covariates)
    assert torch.equal(again[:, 1], logits[:, 1])  # the head on its own does not see the others
    assert not torch.equal(again[:, 2], logits[:, 2])


def test_a_missing_covariate_counts_as_the_mean():
    model = build(Resnet1dConfig(), plain(1), 400, 3).eval()
    x = torch.randn(4, 12, 400)
    missing = torch.tensor([[float("nan"), 1.0]] * 4)
    assert torch.equal(model(x, missing), model(x, torch.tensor([[0.0, 1.0]] * 4)))


def test_small_still_sees_amplitude():
    """GroupNorm alone would make a flat-voltage ECG look like any other."""
    model = build(Resnet1dConfig(), plain(1), 400, 3).eval()
    x = torch.randn(4, 12, 400, generator=torch.Generator().manual_seed(0))
    assert (model(3 * x, torch.zeros(4, 2)) - model(x, torch.zeros(4, 2))).abs().max() > 1e-2


@pytest.mark.parametrize(
    "heads",
    [
        [],
        [HeadSpec("a"), HeadSpec("a")],
        [HeadSpec("a", "g", 1.0), HeadSpec("b", "g", 1.0)],
        [HeadSpec("a", "g")],
    ],
)
def test_impossible_heads_are_refused(heads):
    with pytest.raises(ModelError):
        build(Resnet1dConfig(), heads, 400, 0)


def test_impossible_inputs_are_refused():
    with pytest.raises(ModelError, match="too short"):
        build(BeatRiskConfig(name="beat_risk", preset="paper"), plain(1), 100, 0)
    with pytest.raises(ModelError, match="does not fit"):
        build(Resnet1dConfig(), plain(1), 400, 0)(torch.zeros(1, 12, 401), torch.zeros(1, 2))
    with pytest.raises(ValidationError, match="groups must divide"):
        Resnet1dConfig(width=20)


def test_the_configuration_needs_no_torch():
    modules = "ecgshared.models, ecgshared.learning.plan, ecgshared.privacy.config"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
