"""The pod's port: /livez, /readyz and /metrics, from a thread of its own.

So it answers while the event loop is blocked and while Postgres is down. Nothing here waits for anything.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import ClassVar

from everstep.errors import UsageError
from everstep.metrics.local import LocalMetrics
from everstep.metrics.vitals import Vitals

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TEXT_TYPE = "text/plain; charset=utf-8"

Answer = tuple[HTTPStatus, str, bytes]


class Exporter:
    """Serves until stopped. Port 0 chooses a free one."""

    def __init__(self, metrics: LocalMetrics, vitals: Vitals, port: int) -> None:
        pages = {
            "/livez": lambda: _probe(vitals.why_not_live()),
            "/readyz": lambda: _probe(vitals.why_not_ready()),
            "/metrics": lambda: (HTTPStatus.OK, METRICS_TYPE, metrics.render()),
        }
        self._server = _listen(port, pages)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="everstep-exporter", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop serving; returns once the port is free. Blocks for a moment."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = False
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(self, port: int, pages: dict[str, Callable[[], Answer]]) -> None:
        self.pages = pages
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        if self.address_family is socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's: it asks the name service for this host's name, which can take long.
        TCPServer.server_bind(self)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "everstep"
    sys_version = ""
    timeout: ClassVar[float] = 10.0

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        status, kind, body = page() if page else (HTTPStatus.NOT_FOUND, TEXT_TYPE, b"not found\n")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every few seconds: they are not worth a line each."""


def _listen(port: int, pages: dict[str, Callable[[], Answer]]) -> _Server:
    try:
        return _Server(port, pages)
    except OSError as error:
        raise UsageError(
            f"cannot serve probes and metrics on port {port} ({error.strerror}): "
            f"set EVERSTEP_PORT to a free one; 0 chooses one"
        ) from None


def _probe(problem: str | None) -> Answer:
    if problem is None:
        return HTTPStatus.OK, TEXT_TYPE, b"ok\n"
    return HTTPStatus.SERVICE_UNAVAILABLE, TEXT_TYPE, f"{problem}\n".encode()
