"""The connection: HTTP by httptools, with the limits that keep one client from holding up the others.

A head that takes its time costs a connection and nothing else, and that only for HEAD_S. Bodies are timed by
who reads them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_S = 10.0
"""Longest time from the first byte of a request, or from the connection, to the end of its head."""

HEAD_BYTES_MAX = 1 << 16
"""Longest head: request line and headers."""


REST_BYTES_MAX = 16 << 20
"""How much of a body is thrown away that nobody wanted: its sender was answered already."""


class Protocol(HttpToolsProtocol):
    """A connection whose heads are of limited size and come in limited time, as does what nobody reads."""

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True
    _is_too_large = False
    _rest_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Start the time of the first head."""
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """End with the connection; a keep-alive's timer would hold what is left of it in memory."""
        self._stop()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Take what came; of a head that goes on, it is counted."""
        if self._in_head:
            self._head_bytes += len(data)
        elif self._is_answered_early():
            self._rest_bytes += len(data)
            if self._rest_bytes > REST_BYTES_MAX:
                self.transport.close()
                return
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._refuse(431)

    def on_message_begin(self) -> None:
        """Start the time of a head."""
        super().on_message_begin()
        self._url_bytes = self._header_bytes = 0
        if not self._in_head:
            self._in_head, self._head_bytes = True, 1
            self._start()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        self._url_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._header_bytes += len(name) + len(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Go on to the request where its head is of a size that is taken."""
        self._stop()
        self._in_head = False
        if self._url_bytes + self._header_bytes > HEAD_BYTES_MAX:
            self._is_too_large = True
            raise ValueError("the head is too large")  # the parser stops, and `send_400_response` is called
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Go on to the next request; what is left of this one's body has so long to come."""
        super().on_response_complete()
        if self._is_answered_early():
            self._rest_bytes = 0
            self._start()

    def on_message_complete(self) -> None:
        """Take note that the body is over."""
        super().on_message_complete()
        if self.cycle is not None:
            self.cycle.more_body = False
        self._stop()

    def _is_answered_early(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever its type says
        return cycle is not None and cycle.response_complete and cycle.more_body

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser does not take."""
        if self._is_too_large:
            self._refuse(431)
        else:
            super().send_400_response(msg)

    def _start(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(HEAD_S, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self._in_head and self._head_bytes:
            self._refuse(408)
        else:
            self.transport.close()

    def _refuse(self, status: int) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()
