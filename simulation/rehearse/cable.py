"""What lies between a hospital and the lab? A cable that can be pulled: a forwarder on loopback, byte for byte."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

_CHUNK = 2**16


class Cable:
    """Forwards connections to an address; what passes is TLS, and stays so.

    Args:
        address: host and port of the lab.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._lab = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._whole, self._open = threading.Event(), set[socket.socket]()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def plug_in(self) -> None:
        """Lets connections through."""
        self._whole.set()

    def pull(self) -> None:
        """Cuts every connection, and lets no new one through."""
        self._whole.clear()
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Takes the cable away."""
        self.pull()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        """One connection, both ways, until either end has had enough."""
        with near:
            if not self._whole.is_set():
                return
            with suppress(OSError), socket.create_connection(self._lab, 5.0) as far:
                far.settimeout(None)
                with self._lock:
                    self._open |= {near, far}
                there = threading.Thread(target=_carry, args=(near, far), daemon=True)
                there.start()
                _carry(far, near)
                there.join()
                with self._lock:
                    self._open -= {near, far}


def _carry(source: socket.socket, target: socket.socket) -> None:
    """Bytes one way, until there are no more; then the other end is told."""
    with suppress(OSError):
        while chunk := source.recv(_CHUNK):
            target.sendall(chunk)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
