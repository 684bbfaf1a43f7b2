"""Book-keeping: norms and clipped sums against Opacus' hooks and a loop, layer by layer and over whole nets."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ecgshared.errors import PrivacyError
from ecgshared.models import HeadSpec, build
from ecgshared.models.crnn import CrnnConfig
from ecgshared.models.resnet1d import Resnet1dConfig
from ecgshared.privacy.book_keeping import BookKeeping, can_keep_books
from ecgshared.privacy.clipping import Hooks, bounded, make_clipper
from ecgshared.privacy.layer_rules import diagonal_sums, has_products

HEADS = [HeadSpec("a", "g", 0.5), HeadSpec("b", "g", 1.0)]
BATCH = 6


class Layers(nn.Module):
    """Layers one after the other, between whose parts signals are (B, C, T); the loss is not linear in them."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.tanh(self.layers(x)).flatten(1).square().sum(1)
        return out


class InTime(nn.Module):
    """A linear layer over (B, T, C), called twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.tanh(self.linear(x.transpose(1, 2)))
        out: torch.Tensor = self.linear(first[:, ::2]).transpose(1, 2)
        return out


class Twice(nn.Module):
    """A convolution that stands at two places of the net."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(torch.tanh(self.layer(x)))
        return out


def short(*args: int, **more: int) -> nn.Module:
    """A convolution whose norms come from products of pairs of times."""
    layer = nn.Conv1d(*args, **more)
    assert has_products(layer, 40)
    return layer


NETS = {
    "short": lambda: Layers(short(12, 32, 16), short(32, 32, 8, padding=4)),
    "long": lambda: Layers(nn.Conv1d(12, 4, 3), nn.Conv1d(4, 4, 5, padding=2)),
    "strided": lambda: Layers(nn.Conv1d(12, 8, 5, stride=2, dilation=2), nn.Conv1d(8, 6, 3, groups=2, bias=False)),
    "norms": lambda: Layers(nn.Conv1d(12, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.GroupNorm(1, 8)),
    "flat": lambda: Layers(nn.Flatten(), nn.Linear(480, 7), nn.GroupNorm(1, 7), nn.Linear(7, 3, bias=False)),
    "in time": lambda: Layers(InTime(12), nn.Flatten(), nn.Linear(240, 2)),
    "twice": lambda: Layers(Twice(short(12, 12, 32, padding=16)), Twice(nn.GroupNorm(2, 12))),
}


def compared(net: nn.Module, x: torch.Tensor, bound: float, clipper) -> tuple[torch.Tensor, torch.Tensor]:
    """Norms, and the clipped sum as one vector."""
    net, seen = copy.deepcopy(net), []
    with clipper(net) as clip:
        items = net(x.clone().requires_grad_(not clip.inputs_alone))
        sums = clip.clipped(items, lambda norms: seen.append(norms) or bounded(norms, bound))
    flat = [sums[p] if p in sums else torch.zeros_like(p) for p in net.parameters() if p.requires_grad]
    return seen[0], torch.cat([part.flatten() for part in flat])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NETS)
def test_norms_and_sums_equal_those_of_opacus_hooks(name, dtype):
    torch.manual_seed(0)
    net, x = NETS[name]().to(dtype), torch.randn(BATCH, 12, 40, dtype=dtype)
    assert can_keep_books(net)
    norms, total = compared(net, x, 1.0, BookKeeping)
    expected_norms, expected = compared(net, x, 1.0, Hooks)
    exact = dtype is torch.float64
    torch.testing.assert_close(norms, expected_norms, rtol=1e-12 if exact else 1e-5, atol=0)
    torch.testing.assert_close(
        total, expected, rtol=0, atol=(1e-13 if exact else 1e-6) * float(expected.norm().detach())
    )
    assert float(total.norm().detach()) <= BATCH


@pytest.mark.parametrize("name", NETS)
def test_norms_equal_one_backward_pass_for_each_sample(name):
    """Written without Opacus: it counts a weight that stands at two places once."""
    torch.manual_seed(1)
    net, x = NETS[name]().double(), torch.randn(BATCH, 12, 40, dtype=torch.float64)
    norms, total = compared(net, x, 0.5, BookKeeping)
    loop, expected = [], 0
    for one in x:
        grads = torch.autograd.grad(net(one[None]).sum(), list(net.parameters()))
        flat = torch.cat([g.flatten() for g in grads])
        loop.append(flat.norm().detach())
        expected = expected + flat * min(1.0, 0.5 / (float(flat.detach().norm()) + 1e-6))
    torch.testing.assert_close(norms, torch.stack(loop), rtol=1e-12, atol=0)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "config",
    [
        Resnet1dConfig(preset="paper64", blocks=6, width=16, groups=4, hidden=8),
        Resnet1dConfig(preset="small"),
        CrnnConfig(name="crnn", widths=(8, 8), units=5, hidden=3),
    ],
    ids=["paper-like", "small", "crnn"],
)
def test_whole_nets_with_dropout_off_equal_the_hooks(config):
    config = config.model_copy(update={"dropout": 0.0, "covariates": ()})
    net, x = build(config, HEADS, 400, 3, torch.float64), torch.randn(BATCH, 12, 400, dtype=torch.float64)

    class Scored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            beside = x.new_zeros(len(x), 0).requires_grad_(x.requires_grad)
            out: torch.Tensor = F.softplus(self.net(x, beside)).sum(1)
            return out

    norms, total = compared(Scored(), x, 0.1, BookKeeping)
    expected_norms, expected = compared(Scored(), x, 0.1, Hooks)
    torch.testing.assert_close(norms, expected_norms, rtol=1e-10, atol=0)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-10)


def test_a_weight_of_two_layers_is_counted_as_one():
    torch.manual_seed(2)
    net = Layers(nn.Conv1d(12, 12, 3, padding=1), nn.ReLU(), nn.Conv1d(12, 12, 3, padding=1)).double()
    net.layers[2].weight = net.layers[0].weight
    x = torch.randn(BATCH, 12, 40, dtype=torch.float64)
    norms, _ = compared(net, x, 1.0, BookKeeping)
    loop = [
        torch.cat([g.flatten() for g in torch.autograd.grad(net(one[None]).sum(), list(net.parameters()))]).norm()
        for one in x
    ]
    torch.testing.assert_close(norms, torch.stack(loop), rtol=1e-12, atol=0)


def test_frozen_layers_are_left_out_and_the_net_is_plain_afterwards():
    torch.manual_seed(3)
    net = Layers(short(12, 32, 16), nn.Flatten(), nn.Linear(800, 2)).double()
    for p in net.layers[0].parameters():
        p.requires_grad_(False)
    x = torch.randn(BATCH, 12, 40, dtype=torch.float64)
    norms, total = compared(net, x, 1.0, BookKeeping)
    expected_norms, expected = compared(net, x, 1.0, Hooks)
    torch.testing.assert_close(norms, expected_norms, rtol=1e-12, atol=0)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
    with BookKeeping(net):
        assert "forward" in vars(net.layers[2])
    assert not any("forward" in vars(layer) for layer in net.modules())
    net(x).sum().backward()
    assert net.layers[2].weight.grad is not None


def test_what_goes_past_the_books_is_refused():
    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(40, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = F.linear(x[:, 0], self.layer.weight).sum(1) + self.layer(x[:, 1]).sum(1)
            return out

    class Merged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(40, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(x.reshape(-1, 40)).reshape(len(x), -1).sum(1)
            return out

    for net in (Past(), Merged()):
        with pytest.raises(PrivacyError, match="told apart"), BookKeeping(net) as book:
            book.clipped(net(torch.randn(BATCH, 12, 40)), lambda norms: bounded(norms, 1.0))


def test_who_keeps_books_and_who_is_refused():
    assert isinstance(make_clipper(NETS["norms"]()), BookKeeping)
    assert isinstance(make_clipper(Layers(nn.Conv2d(1, 1, 3))), Hooks)
    with pytest.raises(PrivacyError, match="padding"):
        make_clipper(Layers(nn.Conv1d(12, 4, 3, padding=1, padding_mode="reflect")))


@pytest.mark.parametrize("width", [1, 2, 3, 7, 16, 31])
def test_sums_along_diagonals(width):
    table = torch.randn(2, 40, 40, dtype=torch.float64)
    length = 40 - width + 1
    expected = sum(table[:, i : i + length, i : i + length] for i in range(width))
    torch.testing.assert_close(diagonal_sums(table, width), expected, rtol=0, atol=1e-12)
