"""A proxy between a worker and Postgres that loses replies: the server has done it, the client never hears of it.

Requests are chosen by their words, or counted: the third one of all connections of an application. A counted one
may also be lost on its way there.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

READY = b"Z\x00\x00\x00\x05"
"""The server's last message after a statement: it has done it, and committed it unless in a transaction."""

APPLICATION = re.compile(rb"\0application_name\0([^\0]*)\0")


@dataclass(frozen=True)
class Loss:
    """The n-th request of an application: lost `executed` (only its reply is) or not."""

    application: str
    number: int
    executed: bool = True


class Proxy:
    """Forwards bytes, a thread per connection.

    Once a request matches `lose`, the server's reply to it is read to its end and thrown away, and the client's
    connection is cut. `lost` holds the requests that this happened to. While it is `away` the server cannot be reached.
    """

    def __init__(self, server_port: int, port: int = 0) -> None:
        self.lose: Callable[[bytes], bool] | None = None
        self.lost: list[bytes] = []
        self.away = False
        self.loss: Loss | None = None
        self.requests: Counter[str] = Counter()
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._clients: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._spawn(self._accept)

    def lose_reply_to(self, *words: bytes) -> None:
        """Lose the next reply to a request that holds all of these words."""
        self.lose = lambda request: all(word in request for word in words)

    def connections(self) -> int:
        """How many there are now."""
        return len(self._clients)

    def cut(self) -> None:
        """End every connection now."""
        for client in list(self._clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _spawn(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.add(client)
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            if self.away:
                client.close()
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            with client, server, contextlib.suppress(OSError):
                self._forward(client, server)
        finally:
            self._clients.discard(client)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        application, doomed = "", False
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ)
            selector.register(server, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(1 << 20)  # type: ignore[union-attr]
                    if not data:
                        return
                    if key.fileobj is client:
                        if found := APPLICATION.search(data):
                            application = found[1].decode()
                        loss = self._loss_of(application, data) if not found else None
                        if loss and not loss.executed:
                            return
                        doomed = doomed or loss is not None or self._is_to_be_lost(data)
                        server.sendall(data)
                    elif not doomed:
                        client.sendall(data)
                    elif READY in data:
                        return

    def _loss_of(self, application: str, request: bytes) -> Loss | None:
        """Counts a request; the loss that it is to suffer, if any."""
        self.requests[application] += 1
        loss = self.loss
        if loss is None or (loss.application, loss.number) != (
            application,
            self.requests[application],
        ):
            return None
        self.lost.append(request)
        return loss

    def _is_to_be_lost(self, request: bytes) -> bool:
        if self.lose is None or not self.lose(request):
            return False
        self.lose = None
        self.lost.append(request)
        return True


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """A proxy on a free port, for the time of a `with`."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
