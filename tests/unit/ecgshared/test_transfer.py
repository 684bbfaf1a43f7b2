"""What a training takes over from another net, and what stays frozen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecgshared.errors import ModelError
from ecgshared.learning.adapters import add_adapters, merged
from ecgshared.learning.layout import Layout
from ecgshared.learning.transfer import count_trained, freeze, parts_of, take_over
from ecgshared.models import HeadSpec, build, config_class
from ecgshared.models.resnet1d import Resnet1dConfig

TINY = Resnet1dConfig(blocks=1, width=8, kernel=4, groups=2, hidden=4, dropout=0.5)
HEAD, LAST = TINY.head_parts, TINY.last_parts


def net(*heads: str, seed: int = 0, config: Resnet1dConfig = TINY):
    return build(config, [HeadSpec(h) for h in heads], 64, seed)


def test_all_but_the_outputs_is_taken_over_and_they_where_they_are_the_same():
    source, layout = net("a", "b", seed=1), Layout.of(net("a", "b"))
    for same, heads in ((True, ("a", "b")), (False, ("a", "b")), (False, ("c",))):
        model = net(*heads, seed=2)
        anew = take_over(model, layout, layout.flatten(source), head=HEAD, outputs=LAST, same_outputs=same)
        assert torch.equal(model.stem.conv.weight, source.stem.conv.weight)
        assert torch.equal(model.hidden.weight, source.hidden.weight)
        assert set(anew) == (set() if same else {"output.weight", "output.bias"})


def test_other_covariates_begin_the_hidden_layer_anew():
    source, layout = net("a", seed=1), Layout.of(net("a"))
    model = net("a", config=TINY.model_copy(update={"covariates": ()}))
    anew = take_over(model, layout, layout.flatten(source), head=HEAD, outputs=LAST, same_outputs=True)
    assert anew == ("hidden.weight",)
    with pytest.raises(ModelError, match="another trunk"):
        take_over(model, layout, layout.flatten(source), head=(), outputs=LAST, same_outputs=True)


def test_another_trunk_and_another_length_are_refused():
    wide = TINY.model_copy(update={"width": 16})
    layout, source = Layout.of(net("a")), net("a")
    with pytest.raises(ModelError, match="another trunk"):
        take_over(net("a", config=wide), layout, layout.flatten(source), head=HEAD, outputs=LAST, same_outputs=True)
    with pytest.raises(ModelError, match="do not fit"):
        take_over(net("a"), layout, np.zeros(3), head=HEAD, outputs=LAST, same_outputs=True)


def test_a_frozen_trunk_neither_drops_nor_learns():
    model = net("a")
    trained = parts_of(model, HEAD)
    freeze(model, trained)
    assert count_trained(model) == sum(p.numel() for n, p in model.named_parameters() if n in trained)
    model.train()
    x, beside = torch.randn(5, 12, 64), torch.zeros(5, 2)
    torch.testing.assert_close(model(x, beside), model(x, beside), rtol=0, atol=0)
    model(x, beside).sum().backward()
    assert model.stem.conv.weight.grad is None
    assert model.output.weight.grad is not None


def test_the_vector_of_a_frozen_net_holds_the_head_alone():
    model = net("a")
    layout = Layout.of(model, only=parts_of(model, TINY.last_parts))
    assert layout.names == ("output.weight", "output.bias")
    assert layout.size == 5
    assert layout.hash != Layout.of(model).hash


@pytest.mark.parametrize("name", ["resnet1d", "crnn", "s4", "attia_cnn"])
def test_adapters_change_nothing_at_first_and_merge_into_the_plain_net(name):
    config = config_class(name)(name=name, dropout=0.0)
    plain, model = (build(config, [HeadSpec("a")], 400, 3, torch.float64).eval() for _ in range(2))
    names = add_adapters(model, 2, 7, without=config.last_parts)
    x, beside = torch.randn(3, 12, 400, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    torch.testing.assert_close(model(x, beside), plain(x, beside), rtol=0, atol=1e-12)
    freeze(model, (*names, "output.weight", "output.bias"))
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        model(x, beside).square().sum().backward()
        optimiser.step()
    changed = model(x, beside)
    assert (changed - plain(x, beside)).abs().max() > 1e-3
    again = build(config, [HeadSpec("a")], 400, 4, torch.float64).eval()
    layout = Layout.of(again)
    layout.load(again, layout.flatten(merged(model)))
    torch.testing.assert_close(again(x, beside), changed, rtol=0, atol=1e-10)
    assert torch.equal(dict(model.named_parameters())["output.bias"], again.output.bias)


@pytest.mark.parametrize(
    ("name", "changes", "rank"), [("resnet1d", {"preset": "paper64"}, 1), ("s4", {"width": 512, "hidden": 0}, 2)]
)
def test_what_travels_of_a_large_net_is_at_most_a_hundredth(name, changes, rank):
    config = config_class(name)(name=name, **changes)
    model = build(config, [HeadSpec("a"), HeadSpec("b")], 1000, 0)
    parameters = count_trained(model)
    names = add_adapters(model, rank, 0, without=config.last_parts)
    trained = (*parts_of(model, config.last_parts), *names)
    freeze(model, trained)
    layout = Layout.of(model, only=trained)
    print(f"{name}: {layout.size:,} of {parameters:,} numbers, {layout.size / parameters:.2%}")
    assert layout.size == count_trained(model)
    assert layout.size <= 0.01 * parameters
