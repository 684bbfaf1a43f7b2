"""Convolutions in bfloat16 against the same convolution in float64 of operands rounded to bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ecgshared.learning.half import HalfConvolutions, weight_gradient


def rounded(x):
    return x.bfloat16().double()


@pytest.mark.parametrize(
    ("channels", "out", "kernel", "length", "how"),
    [
        (3, 5, 16, 200, {}),
        (4, 4, 7, 90, {"padding": 3}),
        (12, 8, 7, 101, {"stride": 4, "padding": 3}),
        (4, 6, 3, 50, {"groups": 2}),
        (2, 3, 5, 60, {"dilation": 2}),
        (3, 2, 4, 5000, {}),
    ],
)
def test_values_and_gradients_are_those_of_rounded_operands(channels, out, kernel, length, how):
    torch.manual_seed(1)
    conv = nn.Conv1d(channels, out, kernel, **how)
    x = torch.randn(3, channels, length, requires_grad=True)
    with HalfConvolutions():
        y = conv(x)
    assert y.dtype == torch.float32
    grad = torch.randn_like(y)
    y.backward(grad)
    # The same in double precision; what comes back is rounded to bfloat16, too.
    operands = rounded(x.detach()).requires_grad_(), rounded(conv.weight.detach()).requires_grad_()
    want = F.conv1d(*operands, bias=conv.bias.detach().double(), **how)
    want.backward(rounded(grad))
    for got, expected in ((y, want), (x.grad, operands[0].grad), (conv.weight.grad, operands[1].grad)):
        apart = (got.double() - expected).abs().max() / expected.abs().max()
        assert apart < 2**-7, apart
    assert torch.allclose(conv.bias.grad, grad.sum((0, 2)), rtol=1e-5)


def test_the_gradient_of_weights_is_the_same_however_many_ecgs_are_taken_together(monkeypatch):
    torch.manual_seed(2)
    x, grad = torch.randn(5, 3, 40 + 6), torch.randn(5, 4, 40)
    want = torch.ops.aten.convolution_backward(
        grad, x, torch.zeros(4, 3, 7), None, [1], [0], [1], False, [0], 1, [False, True, False]
    )[1]
    for together in (1, 80, 10_000):
        monkeypatch.setattr("ecgshared.learning.half._COLUMNS", together)
        assert torch.allclose(weight_gradient(x, grad, 7), want, atol=1e-4)


def test_what_is_no_float32_convolution_is_left_alone():
    conv, x = nn.Conv1d(2, 2, 3).double(), torch.randn(1, 2, 9, dtype=torch.float64)
    linear = nn.Linear(9, 2).double()
    with HalfConvolutions():
        assert torch.equal(conv(x), F.conv1d(x, conv.weight, conv.bias))
        assert linear(x).dtype == torch.float64
