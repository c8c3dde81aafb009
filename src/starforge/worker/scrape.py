"""The worker's own page of metrics, for a Prometheus that scrapes workers one by one."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import structlog

from starforge.telemetry.metrics import CONTENT_TYPE, page
from starforge.telemetry.state import State
from starforge.worker.errors import MetricsPortError

log = structlog.get_logger("worker")

ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")
SCRAPE_S_MAX = 5.0
"""A client that is slower than this is hung up on: one is served at a time."""

POLL_S = 0.1


class _Page(BaseHTTPRequestHandler):
    server: _Server
    timeout = SCRAPE_S_MAX

    def do_GET(self) -> None:
        """Answer with the page."""
        # A website that points its own name at this machine still sends its own name.
        if self.headers.get("Host", "").partition(":")[0] not in HOSTS:
            self.send_error(421)
            return
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        body = page(self.server.state())
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Leave standard error to the worker's own lines."""
        log.debug("metrics.asked", asked=format % args)


class _Server(socketserver.TCPServer):
    allow_reuse_address = True

    def __init__(self, port: int, state: Callable[[], State | None]) -> None:
        super().__init__((ADDRESS, port), _Page)
        self.state = state


@contextmanager
def metrics_shown(port: int, state: Callable[[], State | None]) -> Iterator[None]:
    """Serve /metrics of this process tree on loopback for the length of a `with` block; port 0: nowhere.

    It answers from a thread of its own, so that no scrape delays a heartbeat.

    Args:
        port: METRICS_PORT.
        state: The database's state as the page is to show it; None while it is away.
    Raises: MetricsPortError when the port cannot be had.
    """
    if not port:
        yield
        return
    try:
        server = _Server(port, state)
    except OSError as error:
        raise MetricsPortError(f"METRICS_PORT={port} cannot be used: {error.strerror}") from None
    threading.Thread(target=server.serve_forever, args=(POLL_S,), name="metrics", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
