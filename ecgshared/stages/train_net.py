"""The net of a train step as its training begins, the same at the coordinator and at every hospital."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ecgshared.models import HeadSpec
from ecgshared.stages.train import Config
from ecgshared.study.endpoints import ContinuousEndpoint, TimeToEventEndpoint

if TYPE_CHECKING:
    from torch import nn

    from ecgshared.learning.layout import Layout
    from ecgshared.study.study import Study


def head_specs(config: Config, study: Study) -> tuple[HeadSpec, ...]:
    """Return the model's outputs; heads of one endpoint group share a cumulative hazard."""
    specs = []
    for name in config.heads:
        endpoint = study.endpoints[name]
        if isinstance(endpoint, TimeToEventEndpoint) and endpoint.group is not None:
            specs.append(HeadSpec(name, endpoint.group, endpoint.horizon_years))
        else:
            specs.append(HeadSpec(name, continuous=isinstance(endpoint, ContinuousEndpoint)))
    return tuple(specs)


@dataclass(frozen=True)
class StartingPoint:
    """A net as training begins with it, the same at the coordinator and at every site.

    Attributes
    ----------
    layout : of the vector that travels: all of the net, what is trained of it, or its adapters.
    of_all : of the whole net, as it is used afterwards.
    parameters, trained : how many the net has, and how many numbers are trained.
    """

    model: nn.Module
    layout: Layout
    of_all: Layout
    parameters: int
    trained: int

    def whole(self, vector: NDArray[Any]) -> NDArray[Any]:
        """Return the vector of the whole net for one that travelled; adapters become part of it."""
        from ecgshared.learning.adapters import merged

        self.layout.load(self.model, vector)
        return self.of_all.flatten(merged(self.model))


def starting_point(step: Config, study: Study, arrays: Mapping[str, NDArray[Any]]) -> StartingPoint:
    """Build the step's net as training begins with it.

    Parameters
    ----------
    arrays : those of the steps it uses, as ``"<step>.weights"``; read where the step starts from another.

    Raises
    ------
    ModelError : the net to start from has another trunk.
    """
    from ecgshared.learning.adapters import add_adapters
    from ecgshared.learning.layout import Layout
    from ecgshared.learning.transfer import count_trained, freeze, parts_of, take_over

    model = built(step, study)
    parameters = count_trained(model)
    whole = Layout.of(model, step.layout_mode)
    start = step.start_from
    if start is None:
        return StartingPoint(model, whole, whole, parameters, parameters)
    source: Any = study.step(start.step)
    take_over(
        model,
        Layout.of(built(source, study)),
        arrays[f"{start.step}.weights"],
        head=() if start.trainable in ("last", "lora") else step.model.head_parts,
        outputs=step.model.last_parts,
        same_outputs=head_specs(source, study) == head_specs(step, study),
    )
    if start.trainable == "all":
        return StartingPoint(model, whole, whole, parameters, parameters)
    trained = parts_of(model, step.model.head_parts if start.trainable == "head" else step.model.last_parts)
    if start.trainable == "lora":
        trained += add_adapters(model, start.rank, study.seed, without=step.model.last_parts)
    freeze(model, trained)
    return StartingPoint(model, Layout.of(model, only=trained), whole, parameters, count_trained(model))


def initial_weights(step: Config, study: Study) -> tuple[str, NDArray[Any], int]:
    """Return layout hash, initial vector and number of trainable parameters of a step that starts from the seed."""
    start = starting_point(step, study, {})
    return start.layout.hash, start.layout.flatten(start.model), start.trained


def built(step: Config, study: Study) -> nn.Module:
    """Build the step's net with the weights of the study's seed."""
    import torch

    from ecgshared.models import build

    dtype = torch.float64 if step.precision == "fp64" else torch.float32
    samples = step.model.samples(study.input.fs_hz, study.input.seconds)
    return build(step.model, head_specs(step, study), samples, study.seed, dtype)
