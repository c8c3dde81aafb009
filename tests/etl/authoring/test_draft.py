"""Draft: from documents to a mapping that reads them, fits the tables that it prints, and writes them."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from starforge.db.pool import Connection, connect
from starforge.etl.authoring.ddl import ddl
from starforge.etl.authoring.draft import draft
from starforge.etl.authoring.survey import survey
from starforge.etl.errors import UndraftableError
from starforge.etl.load.write import write
from starforge.etl.mapping import Mapping
from starforge.etl.mapping.tables import Column
from starforge.etl.source.fit import misfits

START = datetime(2026, 1, 1, tzinfo=UTC)


def drafted(documents: list[Any], **more: Any) -> Mapping:
    """Run the source of a draft and return its mapping."""
    names: dict[str, Any] = {}
    exec(compile(draft(documents, "drafted", **more), "draft.py", "exec"), names)
    mapping: Mapping = names["MAPPING"]
    return mapping


async def processed(conn: Connection, mapping: Mapping, documents: list[Any]) -> dict[str, int]:
    """Make the tables of a mapping, write the documents, and return how many rows each table has."""
    await conn.execute(ddl(mapping).replace("BEGIN;\n", "").replace("COMMIT;", ""))
    assert [each for each in await misfits(conn, mapping) if each.level == "fault"] == []
    await conn.execute("SELECT set_config('starforge.tenant_id', 't', true)")
    for document in documents:
        await write(conn, mapping, document, tenant="t", captured_at=START)
    return {name: await conn.fetchval(f'SELECT count(*) FROM "{name}"') for name in mapping.tables}


@pytest.mark.shared
async def test_the_hero_sample_becomes_a_mapping_with_its_keyed_objects_as_tables(
    conn: Connection, shared: Path
) -> None:
    document = msgspec.json.decode((shared / "data/hero/sample.json").read_bytes())
    mapping = drafted([document])
    found = survey(mapping, [("sample", document)])
    assert found.failures == []
    assert mapping.captured_at(document) == datetime(2025, 12, 2, 0, 0, 0, 123000, tzinfo=UTC)
    counts = {name: table.rows for name, table in found.tables.items()}
    assert counts == {"drafted": 1, "troops": 4, "pets": 2, "artifacts": 2, "teams": 2}
    troop_id, last_login = (
        mapping.tables["troops"].column("troop_id"),
        mapping.tables["drafted"].column("last_login"),
    )
    assert isinstance(troop_id, Column)
    assert isinstance(last_login, Column)
    assert (troop_id.type.sql, last_login.type.sql) == ("bigint", "timestamptz")
    assert await processed(conn, mapping, [document]) == counts


@pytest.mark.shared
async def test_fhir_bundles_become_a_table_for_each_kind_of_resource(conn: Connection, shared: Path) -> None:
    files = sorted((shared / "data/fhir-r4").glob("*.json.gz"))[:4]
    documents = [msgspec.json.decode(gzip.decompress(file.read_bytes())) for file in files]
    mapping = drafted(documents)
    assert survey(mapping, [("bundle", each) for each in documents]).failures == []
    counts = await processed(conn, mapping, documents)
    kinds = [entry["resource"]["resourceType"] for each in documents for entry in each["entry"]]
    assert counts["patient"] == 4
    assert counts["observation"] == kinds.count("Observation")
    assert len(counts) == len(set(kinds))


NAMES = st.one_of(
    st.sampled_from(["id", "tenant_id", "extra", "createdAt", "User", "select", "a.b", "", "7", "x[0]", "'"]),
    st.text(max_size=6),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    st.sampled_from(["2026-01-01", "2026-01-01T00:00:00Z", "12", 1764630000, 1764630000123]),
)
CLEAN = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(CLEAN, inner, max_size=4),
        st.dictionaries(st.integers(0, 99).map(str), st.dictionaries(CLEAN, inner, max_size=3), max_size=4),
        st.lists(
            st.fixed_dictionaries({"id": st.integers(0, 3)}, optional={"type": CLEAN, "v": inner}), max_size=4
        ),
    ),
    max_leaves=20,
)
DOCUMENTS = st.lists(
    st.builds(
        lambda body, code: {**body, "id": code},
        st.dictionaries(
            NAMES.filter(lambda name: "\0" not in name and name.isprintable()), VALUES, max_size=6
        ),
        st.text(alphabet="abc", min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture
async def fresh(database: str) -> AsyncIterator[Connection]:
    conn = await connect(database)
    yield conn
    await conn.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@example(documents=[{"of": False, "id": "a"}, {"of": {"0": {}}, "id": "a"}])
@example(documents=[{"of": {"0": {"\N{MATHEMATICAL BOLD DIGIT ZERO}": False}}, "id": "a"}])
@given(documents=DOCUMENTS)
async def test_whatever_documents_it_is_made_from_a_draft_reads_and_writes_them(
    fresh: Connection, documents: list[Any]
) -> None:
    mapping = drafted(documents, subject="id")
    assert survey(mapping, [("made", each) for each in documents]).failures == []
    changes = fresh.transaction()
    await changes.start()
    try:
        assert (await processed(fresh, mapping, documents))["drafted"] >= 1
    finally:
        await changes.rollback()


@pytest.mark.parametrize(
    ("documents", "told"),
    [
        ([[1]], "no object at its root"),
        ([{"a": 1.5}], "no field says whose state"),
        ([], "no object at its root"),
    ],
)
def test_what_cannot_be_drafted_is_told(documents: list[Any], told: str) -> None:
    with pytest.raises(UndraftableError, match=told):
        draft(documents, "x")


def test_nothing_in_a_document_becomes_code() -> None:
    evil = 'x"] + [__import__("os").abort()] + ["'
    documents = [{"id": "a", evil.replace("[", "").replace("]", ""): 1, "l": [{"type": evil}, {"type": "b"}]}]
    assert survey(drafted(documents), [("evil", documents[0])]).failures == []
