"""What does a hospital do under stock Flower? It takes a state_dict out of a message, trains, and puts it into another.

Source: ``client_app.py`` of Flower's ``quickstart-pytorch``, with training replaced by a wait of a known length.
"""

from __future__ import annotations

import time
from collections import OrderedDict

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round; the reply says when the work began and when it ended, which is not counted as cost."""
    state = message.content.array_records["arrays"].to_torch_state_dict()
    began = time.time()
    time.sleep(float(context.run_config["seconds-of-work"]))
    trained = OrderedDict((name, torch.add(tensor, 1.0)) for name, tensor in state.items())
    metrics = MetricRecord({"num-examples": 1, "began": began, "ended": time.time()})
    return Message(RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=message)
