"""A document as its mapping meets it: whole in memory, or as a skeleton with pieces that come by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from starforge.etl.document.path import Path
from starforge.etl.mapping.reading import Piece


class Document(Protocol):
    """What both gears give; the rows that a mapping makes of it are the same."""

    @property
    def root(self) -> Any:
        """The document; read in pieces, what is left of it when its containers of items are emptied."""
        ...

    def pieces(self, container: Path, *, items: int) -> AsyncIterator[Piece | None]:
        """Yield what lies at a path from the top, at most `items` at a time; None: it is all in the root."""
        ...


class Whole:
    """A document that lies in memory."""

    def __init__(self, root: Any) -> None:
        self.root = root

    async def pieces(self, container: Path, *, items: int) -> AsyncIterator[Piece | None]:
        """Yield None: everything lies in the root."""
        yield None
