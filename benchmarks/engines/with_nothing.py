"""What is the least a federation can cost? Hospitals in a loop, their networks averaged: the comparison's floor."""

from __future__ import annotations

import torch
from plain_loop import hospital, make_model, numbers, read_order, recognised, study_of, train, write_result


def main() -> None:
    """Federated averaging in one process."""
    order = read_order()
    study, model = study_of(order.laid), make_model(order.laid)
    for round_ in range(1, order.rounds + 1):
        shared = {name: value.clone() for name, value in model.state_dict().items()}
        total, photos_in_all = {name: torch.zeros_like(value) for name, value in shared.items()}, 0
        for number in numbers(study):
            model.load_state_dict(shared)
            photos, _ = hospital(order.laid, number)
            train(model, study, photos, number, round_)
            photos_in_all += len(photos)
            for name, value in model.state_dict().items():
                total[name] += len(photos) * value
        model.load_state_dict({name: value / photos_in_all for name, value in total.items()})
        for number in numbers(study):
            recognised(model, study, hospital(order.laid, number)[1])
    write_result(order, model)


if __name__ == "__main__":
    main()
