"""Reload: for development, a child is replaced when a source file of its app has changed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import structlog

from starforge.loop import wait

log = structlog.get_logger("worker")

LOOK_S = 0.4
FILES_MAX = 5000
SKIPPED = {"__pycache__", "node_modules", "site-packages"}


def folder_of(app: str) -> Path:
    """Return the folder to watch: that of the outermost package of `module:attribute`, or of its module.

    The module must have been imported.
    """
    name = app.partition(":")[0]
    top = sys.modules.get(name.partition(".")[0]) or sys.modules[name]
    file = getattr(top, "__file__", None) or getattr(sys.modules[name], "__file__", None)
    return Path(file).parent if file else Path.cwd()


class Sources:
    """The source files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen = self._look()

    async def changed(self, stop: asyncio.Event) -> list[Path]:
        """Wait for a change and return the files that differ; [] where told to stop."""
        while not await wait(stop, LOOK_S):
            now = await asyncio.to_thread(self._look)
            before, self._seen = self._seen, now
            files = [file for file in now.keys() | before.keys() if now.get(file) != before.get(file)]
            if files:
                return sorted(Path(file) for file in files)
        return []

    def _look(self) -> dict[str, int]:
        """Return when each file was last written, in ns; of the first FILES_MAX."""
        found: dict[str, int] = {}
        for folder, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith(".")]
            for name in files:
                if not name.endswith(".py"):
                    continue
                try:
                    found[os.path.join(folder, name)] = os.stat(os.path.join(folder, name)).st_mtime_ns
                except OSError:
                    continue  # it was replaced just now; the next look sees it
                if len(found) >= FILES_MAX:
                    return found
        return found
