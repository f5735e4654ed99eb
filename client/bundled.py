"""What does stock Flower find in our bundle? An app that says who answers for a hospital instead."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

app = ClientApp()


def refuse(message: Message, context: Context) -> Message:
    """Refuses: a hospital answers through `bioface hospital join`, from the code it installed.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("a hospital answers through `bioface hospital join`, not from a bundle")


app.train()(refuse)
app.evaluate()(refuse)
