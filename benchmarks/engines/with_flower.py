"""What does stock Flower cost? Its quickstart's two apps, on its Ray runtime, around the plain loop."""

from __future__ import annotations

import os

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from plain_loop import (
    Order,
    hospital,
    make_model,
    read_order,
    recognised,
    resident_model,
    study_of,
    train,
    write_result,
)


def client_app(order: Order) -> ClientApp:
    """Trains and evaluates, as the quickstart does; the network is made once in a process and not for each message."""
    app = ClientApp()

    @app.train()
    def train_here(message: Message, context: Context) -> Message:
        model, number = resident_model(order.laid), int(context.node_config["partition-id"]) + 1
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        photos, _ = hospital(order.laid, number)
        round_ = int(message.content["config"]["server-round"])
        value = train(model, study_of(order.laid), photos, number, round_)
        metrics = MetricRecord({"train_loss": value, "num-examples": len(photos)})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate_here(message: Message, context: Context) -> Message:
        model, number = resident_model(order.laid), int(context.node_config["partition-id"]) + 1
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        right, patients = recognised(model, study_of(order.laid), hospital(order.laid, number)[1])
        metrics = MetricRecord({"eval_acc": right / patients, "num-examples": patients})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def server_app(order: Order) -> ServerApp:
    """Flower's own FedAvg."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        torch.set_num_threads(1)
        hospitals = study_of(order.laid).simulation.hospitals
        strategy = FedAvg(min_train_nodes=hospitals, min_evaluate_nodes=hospitals, min_available_nodes=hospitals)
        start = ArrayRecord(make_model(order.laid).state_dict())
        result = strategy.start(grid, start, num_rounds=order.rounds)
        model = make_model(order.laid)
        model.load_state_dict(result.arrays.to_torch_state_dict())
        write_result(order, model)

    return app


def main() -> None:
    """One processor for each actor, and as many actors as hospitals are to train at the same time."""
    order = read_order()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    resources = {"num_cpus": 1, "num_gpus": 0.0}
    settings = {"client_resources": resources, "init_args": {"num_cpus": order.workers, "num_gpus": 0}}
    run_simulation(
        server_app(order), client_app(order), study_of(order.laid).simulation.hospitals, backend_config=settings
    )


if __name__ == "__main__":
    main()
