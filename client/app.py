"""How does a message become an answer? Flower's ClientApp: message -> ``Site`` -> message, for every engine.

An error that leaves is one word of ``Code``: an exception's text could name a file, a patient or a label, so it stays
in this machine's log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from bioface_core.errors import WireError
from bioface_core.logs import say
from bioface_core.messages import Code, demand
from bioface_core.steps import MESSAGE_TYPES, Step
from bioface_core.steps_wire import pack_answer, unpack_asked
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
    for step in (step for step in Step if step is not Step.MASK):
        app.train(step.value)(handle)
        app.evaluate(step.value)(handle)
    return app


def answer(message: Message, context: Context, open_site: Callable[[Context], Site]) -> Message:
    """The reply to a message: records if all went well, else an error that holds one word."""
    try:
        site, kind = open_site(context), message.metadata.message_type
        reply = _masked_reply if site.masks else _plain_reply
        return Message(reply(site, message.content, kind), reply_to=message)
    except WireError as error:
        say(_log, "refused", logging.WARNING, code=error.code, why=str(error), asked=message.metadata.message_type)
        return refusal(message, Code(error.code) if error.code in list(Code) else Code.FAILED)
    except Exception:
        say(_log, "failed", logging.ERROR, asked=message.metadata.message_type)
        return refusal(message, Code.FAILED)


def _plain_reply(site: Site, content: RecordDict, kind: str) -> RecordDict:
    request = unpack_request(content, site.contract)
    demand(request.ticket.phase == kind, Code.MALFORMED, "phase and type of message differ")
    return pack_reply(site.answer(request))


def _masked_reply(site: Site, content: RecordDict, kind: str) -> RecordDict:
    """One step in a masked sum."""
    demand(kind in MESSAGE_TYPES, Code.MALFORMED, "type of message")
    phase, step = MESSAGE_TYPES[kind]
    asked = unpack_asked(content, site.contract, step)
    demand(asked.ticket.phase is phase, Code.MALFORMED, "phase and type of message differ")
    return pack_answer(site.answer_step(asked))


def refusal(message: Message, code: Code) -> Message:
    """An error reply of one word; the number beside it is what Flower asks for."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, code.value), reply_to=message)
