"""One step of SGD a round, and one evaluation, as in Flower's PyTorch quick start."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from plainflower.net import build

app = ClientApp()


def _load(message: Message, context: Context) -> torch.nn.Module:
    net = build(int(context.run_config["width"]), int(context.run_config["layers"]))
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return net


@app.train()
def train(message: Message, context: Context) -> Message:
    net = _load(message, context)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
    net(torch.ones(2, net[0].in_features)).square().mean().backward()
    optimiser.step()
    content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": 2})}
    return Message(RecordDict(content), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    with torch.no_grad():
        loss = float(_load(message, context)(torch.ones(2, int(context.run_config["width"]))).square().mean())
    return Message(RecordDict({"metrics": MetricRecord({"loss": loss, "num-examples": 2})}), reply_to=message)
