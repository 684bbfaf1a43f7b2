"""What a model says of itself, and that nobody asks which one it is."""

import ast
from pathlib import Path

import pytest
import torch

import ecgshared
from ecgshared.errors import ModelError
from ecgshared.models import DEFAULT, MODELS, BaseModelConfig, HeadSpec, build, config_class
from ecgshared.stages.train import Config as TrainConfig

ROOT = Path(ecgshared.__file__).parents[1]
SIZES = {
    "resnet1d": {"width": 8, "blocks": 1},
    "cvae": {"latent": 3, "hidden": 8},
    "beat_risk": {"width": 8, "blocks": 1},
    "beat_vae": {"preset": "small"},
    "crnn": {"widths": (8, 16), "units": 4},
    "attia_cnn": {},
    "s4": {"width": 8, "state": 2, "blocks": 1},
    "waves": {},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_net_does_what_its_configuration_says(name):
    config = config_class(name)(name=name, **SIZES[name])
    samples, given = config.samples(100, 4), len(config.side_inputs)
    assert samples == {"recording": 400, "median_beat": 80, "single_beat": 60}[config.sees]
    heads = () if config.own_objective else (HeadSpec("a"), HeadSpec("b"))
    net = build(config, heads, samples, 0).eval()
    x, side = torch.zeros(5, 12, samples), torch.zeros(5, given)
    assert net(x, side).shape == (5, config.latent_size or len(heads))
    assert hasattr(net, "item_losses") == hasattr(net, "begin_round") == config.own_objective
    assert hasattr(net, "decode") == config.makes_beats
    if config.own_objective:
        assert net.judged(x, side).shape == (5, len(config.figures))
    if config.makes_beats:
        assert net.decode(torch.zeros(5, config.latent_size), side).shape == (5, 12, net.samples)


def test_batch_normalisation_mixes_patients():
    assert not config_class("resnet1d")().mixes_patients
    assert config_class("resnet1d")(norm="batch").mixes_patients
    assert config_class("cvae")(name="cvae", paper_faithful=True).mixes_patients
    with pytest.raises(ModelError, match="no such model"):
        config_class("transformer")


def test_a_step_without_a_model_has_the_first():
    step = TrainConfig(id="a", stage="train", uses=("d",), heads=("h",))
    assert step.model == config_class(DEFAULT)()
    assert step.model.name == DEFAULT


def test_nobody_but_the_registry_knows_a_model():
    own = {f"ecgshared.models.{name}" for name in MODELS} | {
        config_class(name).net for name in MODELS if config_class(name).net
    }
    for package in ("ecgshared", "client", "server", "simulations"):
        for path in (ROOT / package).rglob("*.py"):
            if path.parent.name == "models":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                assert not own & set(names), path


def test_a_configuration_that_says_nothing_has_heads_and_sees_recordings():
    class Config(BaseModelConfig):
        name: str = "plain"

    config = Config()
    assert (config.sees, config.own_objective, config.makes_beats, config.latent_size) == ("recording", False, False, 0)
    assert (config.side_inputs, config.figures, config.event, config.mixes_patients) == ((), (), None, False)
