"""State machines as tables of rows (verb, from, to).

A machine lives in the module of its noun. Database constraints, refusals of the API, buttons, diagrams
and tests are all derived from these rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starforge.errors import IllegalMoveError


@dataclass(frozen=True, slots=True)
class Move:
    """One row: `verb` takes the thing from `source` to `target`; an empty source is its creation."""

    verb: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Machine:
    """A noun's states and the verbs that move between them."""

    noun: str
    moves: tuple[Move, ...]

    @classmethod
    def of(cls, noun: str, rows: Iterable[tuple[str, str, str]]) -> Machine:
        """Build a machine from rows (verb, "from another", to); "" as from means creation."""
        moves: list[Move] = []
        for verb, sources, target in rows:
            moves += [Move(verb, source, target) for source in sources.split() or [""]]
        seen: dict[tuple[str, str], str] = {}
        for move in moves:
            if seen.setdefault((move.verb, move.source), move.target) != move.target:
                raise TypeError(f"{noun}: {move.verb} from {move.source!r} leads to two states")
        return cls(noun, tuple(moves))

    @property
    def states(self) -> tuple[str, ...]:
        """Every state, in the order in which the rows name them."""
        named = [state for move in self.moves for state in (move.source, move.target) if state]
        return tuple(dict.fromkeys(named))

    @property
    def verbs(self) -> tuple[str, ...]:
        """Every verb, in the order of the rows."""
        return tuple(dict.fromkeys(move.verb for move in self.moves))

    @property
    def terminal(self) -> tuple[str, ...]:
        """The states that no verb leaves."""
        left = {move.source for move in self.moves}
        return tuple(state for state in self.states if state not in left)

    def sources(self, verb: str) -> tuple[str, ...]:
        """The states from which `verb` is allowed."""
        return tuple(move.source for move in self.moves if move.verb == verb)

    def allowed(self, state: str) -> tuple[str, ...]:
        """The verbs that `state` allows: what a console may offer as buttons."""
        return tuple(move.verb for move in self.moves if move.source == state)

    def target(self, verb: str, state: str) -> str:
        """Return the state that `verb` leads to from `state`; raise IllegalMoveError when it may not."""
        for move in self.moves:
            if move.verb == verb and move.source == state:
                return move.target
        raise IllegalMoveError(self.noun, verb, state, self.sources(verb))

    def mermaid(self) -> str:
        """Return the diagram of the machine as mermaid text."""
        lines = [f"    {move.source or '[*]'} --> {move.target}: {move.verb}" for move in self.moves]
        lines += [f"    {state} --> [*]" for state in self.terminal]
        return "\n".join(["stateDiagram-v2", *lines])
