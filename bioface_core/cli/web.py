"""How is a page of ours served? On the loopback address, to whoever is shown the line that is printed, until Ctrl-C."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

    from bioface_core.web.door import Token

Port = Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 is any that is free.")]
Open = Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")]
_LOOPBACK = "127.0.0.1"


def serve_page(make: Callable[[Token], FastAPI], port: int, in_browser: bool) -> None:
    """Serves a page until it is interrupted.

    Args:
        make: the app for a token.
        port: 0 is any that is free.
        in_browser: whether a browser is to be opened.

    Raises:
        UserError: the port is taken.
    """
    import socket
    import webbrowser
    from contextlib import suppress

    import uvicorn

    from bioface_core.errors import UserError
    from bioface_core.web.door import new_token

    token = new_token()
    app = make(token)
    try:
        listener = socket.create_server((_LOOPBACK, port))
    except OSError as error:
        raise UserError(
            f"{_LOOPBACK}:{port} cannot be listened on ({error.strerror}): choose another --port"
        ) from error
    address = f"http://{_LOOPBACK}:{listener.getsockname()[1]}/#{token}"
    print(address, flush=True)
    print("Open this address in a browser on this machine; Ctrl-C ends it.", file=sys.stderr)
    if in_browser:
        webbrowser.open(address)
    config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", server_header=False, lifespan="off")
    with suppress(KeyboardInterrupt):  # that is how it ends
        uvicorn.Server(config).run(sockets=[listener])
