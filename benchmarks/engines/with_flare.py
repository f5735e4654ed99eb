"""What does NVIDIA FLARE's simulator cost? Its FedAvg recipe around ``flare_client.py``, as in its hello-pt example."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv
from plain_loop import make_model, read_order, study_of, write_result


def main() -> None:
    """One process per hospital, which is the simulator's default: with fewer, it starts one anew for every turn."""
    order = read_order()
    hospitals = study_of(order.laid).simulation.hospitals
    recipe = FedAvgRecipe(
        name="engines",
        min_clients=hospitals,
        num_rounds=order.rounds,
        model={"class_path": "flare_model.LaidOut", "args": {"laid": str(order.laid)}},
        train_script=str(Path(__file__).with_name("flare_client.py")),
        train_args=f"--laid {order.laid}",
    )
    with tempfile.TemporaryDirectory() as scratch:
        recipe.execute(SimEnv(num_clients=hospitals, workspace_root=scratch))
        (saved,) = Path(scratch).rglob("FL_global_model.pt")
        weights = torch.load(saved, weights_only=True)["model"]  # noqa: TID251 - its own file, tensors only
    model = make_model(order.laid)
    model.load_state_dict(weights)
    write_result(order, model)


if __name__ == "__main__":
    main()
