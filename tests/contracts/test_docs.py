"""The documents say what is: diagrams are the state tables', links resolve, the example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from starforge.backfill.state.backfill import BACKFILL
from starforge.etl.snapshot.snapshot import SNAPSHOT
from starforge.machine import Machine
from starforge.queue.job import JOB
from starforge.worker.registry import WORKER
from tests.covers import covers

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")


@pytest.mark.parametrize("machine", [BACKFILL, JOB, SNAPSHOT, WORKER], ids=lambda machine: machine.noun)
def test_a_diagram_of_the_architecture_page_is_drawn_from_the_state_table(machine: Machine) -> None:
    assert machine.mermaid() in (ROOT / "docs" / "architecture.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
@covers("F-73", "J-49")
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
