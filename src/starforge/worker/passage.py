"""The passage: lines on their way to standard error, whether anybody reads it or not."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import deque

import msgspec

from starforge.telemetry.log import for_people
from starforge.worker.lines import event

BYTES_MAX = 4 * 1024 * 1024
"""What waits for a reader of standard error; the oldest go first."""

READER_S = 1.0


class Passage:
    """Writes lines to standard error from a thread of its own: who leaves it unread stops nobody."""

    def __init__(self, fd: int, *, for_terminal: bool) -> None:
        self._fd, self._for_terminal = fd, for_terminal
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._closed = self._over = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log-passage", daemon=True)
        self._thread.start()

    def take(self, line: bytes) -> None:
        """Accept a line without its end."""
        with self._change:
            if self._over:
                return
            self._lines.append(line)
            self._bytes += len(line)
            while self._bytes > BYTES_MAX and len(self._lines) > 1:
                self._bytes -= len(self._lines.popleft())
                self._dropped += 1
            self._change.notify()

    def close(self, within_s: float) -> None:
        """Write what is left, as far as it is read in time."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join(within_s)

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._lines and not self._closed:
                    self._change.wait()
                if not self._lines:
                    return
                lines, self._bytes = list(self._lines), 0
                self._lines.clear()
                dropped, self._dropped = self._dropped, 0
            if dropped:
                lines.insert(
                    0, event("warning", "log.dropped", lines=dropped, why="standard error was not read")
                )
            text = b"".join(self._shown(line) + b"\n" for line in lines)
            try:
                self._write(text)
            except OSError:
                self._over = True  # nobody will ever read it
                return

    def _write(self, text: bytes) -> None:
        while text:
            try:
                text = text[os.write(self._fd, text) :]
            except BlockingIOError:
                # Whoever shares it has made it non-blocking.
                select.select([], [self._fd], [], READER_S)

    def _shown(self, line: bytes) -> bytes:
        """Return a line for the terminal, where there is one: our own are JSON."""
        if not self._for_terminal or not line.startswith(b'{"'):
            return line
        try:
            document = msgspec.json.decode(line)
            return for_people(document).encode() if "event" in document and "level" in document else line
        except Exception:  # whatever a stranger's document does to the renderer, its line is shown
            return line


def passage_to_stderr() -> Passage:
    """Return a passage to this process's standard error."""
    return Passage(sys.stderr.fileno(), for_terminal=sys.stderr.isatty())
