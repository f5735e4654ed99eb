"""How does a message become an answer? Flower's ClientApp: message -> ``Site`` -> message, for every engine.

An error that leaves is one word of ``Code``: an exception's text could name a file, a patient or a label, so it stays
in this machine's log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from bioface_core.errors import WireError
from bioface_core.logs import say
from bioface_core.messages import Code
from bioface_core.wire import pack_reply, unpack_request
from client.site import Site

_log = logging.getLogger("bioface.client")


def make_client_app(open_site: Callable[[Context], Site]) -> ClientApp:
    """The ClientApp of a hospital.

    Args:
        open_site: gives the site that a context stands for; should keep it from call to call. Picklable where the
            engine starts processes.
    """
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        return answer(message, context, open_site)

    app.train()(handle)
    app.evaluate()(handle)
    return app


def answer(message: Message, context: Context, open_site: Callable[[Context], Site]) -> Message:
    """The reply to a message: records if all went well, else an error that holds one word."""
    try:
        site = open_site(context)
        request = unpack_request(message.content, site.contract)
        if request.ticket.phase != message.metadata.message_type:
            raise WireError(Code.MALFORMED, "phase and type of message differ")
        return Message(pack_reply(site.answer(request)), reply_to=message)
    except WireError as error:
        say(_log, "refused", logging.WARNING, code=error.code, why=str(error), asked=message.metadata.message_type)
        return refusal(message, Code(error.code) if error.code in list(Code) else Code.FAILED)
    except Exception:
        say(_log, "failed", logging.ERROR, asked=message.metadata.message_type)
        return refusal(message, Code.FAILED)


def refusal(message: Message, code: Code) -> Message:
    """An error reply of one word; the number beside it is what Flower asks for."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, code.value), reply_to=message)
