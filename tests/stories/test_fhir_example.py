"""The example of a user's own mapping: FHIR bundles become five tables with foreign keys."""

from __future__ import annotations

import gzip
import importlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from starforge.db.pool import Connection, connect, set_tenant
from starforge.etl.errors import MappingError
from starforge.etl.load.parts import Written
from starforge.etl.load.write import write
from starforge.etl.mapping import Mapping
from tests.postgres import TestServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "fhir"
MAPPING: Mapping = importlib.import_module("examples.fhir.app").MAPPING
TABLES = {
    "Patient": "patients",
    "Encounter": "encounters",
    "Condition": "conditions",
    "Observation": "observations",
    "MedicationRequest": "medication_requests",
}
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def engine(database: str, server: TestServer) -> AsyncIterator[Connection]:
    """The engine's connection, speaking for a tenant, to a database with the example's tables."""
    owner = await connect(database)
    await owner.execute("SET ROLE starforge_owner")
    await owner.execute((EXAMPLE / "tables.sql").read_text())
    await owner.close()
    conn = await connect(server.url(database.rpartition("/")[2], user="starforge_engine"))
    await conn.execute("SELECT set_config('starforge.tenant_id', 'clinic', false)")
    yield conn
    await conn.close()


def bundles(shared: Path) -> list[dict[str, Any]]:
    """The twelve bundles, in the order of their names."""
    files = sorted((shared / "data/fhir-r4").glob("*.json.gz"))
    return [json.loads(gzip.decompress(file.read_bytes())) for file in files]


def resources(documents: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Every resource of a kind by its id."""
    found = [entry["resource"] for document in documents for entry in document["entry"]]
    return {each["id"]: each for each in found if each["resourceType"] == kind}


async def put(conn: Connection, document: dict[str, Any], at: datetime = START) -> Written:
    async with conn.transaction():
        return await write(conn, MAPPING, document, tenant="clinic", captured_at=at)


@pytest.mark.shared
async def test_twelve_bundles_become_five_tables_with_every_reference_satisfied(
    engine: Connection, shared: Path
) -> None:
    documents = bundles(shared)
    assert len(documents) == 12
    for document in documents:
        kinds = Counter(entry["resource"]["resourceType"] for entry in document["entry"])
        assert (await put(engine, document)).rows_written == sum(kinds[kind] for kind in TABLES)
    for kind, table in TABLES.items():
        held = await engine.fetch(f"SELECT * FROM {table}")
        wanted = resources(documents, kind)
        assert {row["id"] for row in held} == set(wanted)
        for row in held:
            _same_references(row, wanted[row["id"]])
            assert "id" not in row["extra"]
    for document in documents:
        assert await put(engine, document) == Written(0, {}, (), True)


def _same_references(row: asyncpg.Record, resource: dict[str, Any]) -> None:
    if "patient_id" in row:
        assert resource["subject"]["reference"] == f"urn:uuid:{row['patient_id']}"
    if "encounter_id" in row:
        assert resource["encounter"]["reference"] == f"urn:uuid:{row['encounter_id']}"
    if row.get("reason_condition_id"):
        assert resource["reasonReference"][0]["reference"] == f"urn:uuid:{row['reason_condition_id']}"


@pytest.mark.shared
async def test_observations_hold_their_quantity_concept_or_components(
    engine: Connection, shared: Path
) -> None:
    documents = bundles(shared)[:3]
    for document in documents:
        await put(engine, document)
    wanted = resources(documents, "Observation")
    shapes: Counter[str] = Counter()
    for row in await engine.fetch("SELECT * FROM observations"):
        resource = wanted[row["id"]]
        quantity = resource.get("valueQuantity", {})
        concept = resource.get("valueCodeableConcept", {})
        assert (row["value"], row["unit"]) == (quantity.get("value"), quantity.get("unit"))
        assert row["value_display"] == concept.get("text")
        assert row["components"] == resource.get("component", [])
        assert row["effective_at"] == datetime.fromisoformat(resource["effectiveDateTime"])
        shapes["quantity" if quantity else "concept" if concept else "components"] += 1
    assert len(shapes) == 3


@pytest.mark.shared
async def test_another_tenant_sees_none_of_it_and_may_hold_the_same_record(
    engine: Connection, shared: Path
) -> None:
    document = bundles(shared)[0]
    await put(engine, document)
    async with engine.transaction():
        await set_tenant(engine, "hospital")
        assert await engine.fetchval("SELECT count(*) FROM patients") == 0
        written = await write(engine, MAPPING, document, tenant="hospital", captured_at=START)
        assert written.rows_written == await engine.fetchval(
            " + ".join(f"(SELECT count(*) FROM {table})" for table in TABLES.values()).join(("SELECT ", ""))
        )


def bundle(*resources: dict[str, Any]) -> dict[str, Any]:
    """A bundle of these resources."""
    return {"resourceType": "Bundle", "entry": [{"resource": resource} for resource in resources]}


PATIENT = {"resourceType": "Patient", "id": "p", "name": [{"family": "Ember", "given": ["Ann", 'O"x']}]}


async def test_a_reference_to_nothing_is_a_foreign_key_violation(engine: Connection) -> None:
    lost = {
        "resourceType": "Condition",
        "id": "c",
        "subject": {"reference": "urn:uuid:p"},
        "encounter": {"reference": "urn:uuid:nowhere"},
    }
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await put(engine, bundle(PATIENT, lost))
    assert await engine.fetchval("SELECT count(*) FROM patients") == 0


async def test_a_reference_to_an_earlier_bundle_is_satisfied(engine: Connection) -> None:
    visit = {
        "resourceType": "Encounter",
        "id": "e",
        "status": "finished",
        "subject": {"reference": "Patient/p"},
        "class": {"code": "AMB", "system": "x"},
    }
    await put(engine, bundle(PATIENT, visit))
    condition = {
        "resourceType": "Condition",
        "id": "c",
        "subject": {"reference": "urn:uuid:p"},
        "encounter": {"reference": "Encounter/e"},
    }
    later = datetime(2026, 2, 1, tzinfo=UTC)
    assert (await put(engine, bundle(PATIENT, condition), later)).rows_written == 1
    row = await engine.fetchrow("SELECT class, extra FROM encounters")
    assert row is not None
    assert dict(row) == {"class": "AMB", "extra": {"class": {"system": "x"}}}
    assert await engine.fetchval("SELECT given FROM patients") == ["Ann", 'O"x']


@pytest.mark.parametrize(
    ("resource", "told"),
    [
        ({"resourceType": "Encounter", "id": "e", "status": "finished"}, "subject.reference: is required"),
        (
            {"resourceType": "Observation", "id": "o", "valueQuantity": {"value": "high"}},
            "valueQuantity.value: expected a number, found text",
        ),
    ],
)
def test_a_resource_that_does_not_fit_is_told_by_its_place(resource: dict[str, Any], told: str) -> None:
    complete = (
        {"status": "final", "subject": {"reference": "urn:uuid:p"}} if "valueQuantity" in resource else {}
    )
    with pytest.raises(MappingError) as caught:
        MAPPING.read(bundle({"resourceType": "Claim"}, PATIENT, {**complete, **resource}))
    assert str(caught.value) == f"entry[2].resource.{told}"
