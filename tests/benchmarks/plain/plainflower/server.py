"""Flower's FedAvg; the time of every round's end goes to a file."""

import time
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from plainflower.net import build

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    times = Path(str(config["times"]))

    def stamp(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        with times.open("a") as file:
            file.write(f"{time.time()}\n")
        return MetricRecord({})

    net = build(int(config["width"]), int(config["layers"]))
    FedAvg(min_train_nodes=2, min_evaluate_nodes=2, min_available_nodes=2).start(
        grid=grid, initial_arrays=ArrayRecord(net.state_dict()), num_rounds=int(config["rounds"]), evaluate_fn=stamp
    )
