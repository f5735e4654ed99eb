"""What does a hospital do under NVIDIA FLARE? It receives, evaluates, trains, sends: the Client API around the loop."""

from __future__ import annotations

import argparse
from pathlib import Path

import nvflare.client as flare
import torch
from plain_loop import hospital, make_model, recognised, study_of, train


def main() -> None:
    """Until the server has had enough."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--laid", type=Path, required=True)
    laid = parser.parse_args().laid
    torch.set_num_threads(1)
    study, model = study_of(laid), make_model(laid)
    flare.init()
    number = int(flare.get_site_name().rpartition("-")[2])
    photos, heldout = hospital(laid, number)
    while flare.is_running():
        received = flare.receive()
        model.load_state_dict({name: torch.as_tensor(value) for name, value in received.params.items()})
        right, patients = recognised(model, study, heldout)
        train(model, study, photos, number, received.current_round + 1)
        flare.send(
            flare.FLModel(
                params={name: value.cpu() for name, value in model.state_dict().items()},
                metrics={"accuracy": right / patients},
                meta={"NUM_STEPS_CURRENT_ROUND": len(photos)},
            )
        )


if __name__ == "__main__":
    main()
