"""A second source, mapped by its user: patient records as FHIR R4 bundles.

One bundle is one patient's record: about twenty kinds of resource in one array, told apart by
`resourceType`, that refer to each other by `urn:uuid:…`. Five kinds become tables; README.md says what
happens to the rest.
"""

from dataclasses import replace

from starforge.app import StarForge
from starforge.etl.mapping import (
    DATE,
    DOUBLE,
    LIST,
    TEXT,
    TIMESTAMP,
    Column,
    Each,
    Mapping,
    Table,
    array,
    text,
)

FHIR_ID = text(1, 64)
KEY = ("tenant_id", "id")


def resources(kind: str) -> Each:
    """Rows from the bundle's resources of one kind."""
    return Each("entry[].resource", where={"resourceType": kind})


def referred_id(reference: str) -> str:
    """Return the id in a reference: `urn:uuid:<id>` within a bundle, `Patient/<id>` from outside."""
    return reference.rpartition("/" if "/" in reference else ":")[2]


REFERENCE = replace(TEXT, convert=referred_id)


MAPPING = Mapping(
    "fhir",
    subject="patients",
    tables=[
        Table(
            "patients",
            rows=resources("Patient"),
            key=KEY,
            columns=[
                Column("id", "id", FHIR_ID),
                Column("family", "name[0].family", TEXT),
                Column("given", "name[0].given", array(TEXT), default=[]),
                Column("gender", "gender", TEXT),
                Column("birth_date", "birthDate", DATE),
                Column("deceased_at", "deceasedDateTime", TIMESTAMP),
                Column("marital_status", "maritalStatus.text", TEXT),
                Column("city", "address[0].city", TEXT),
                Column("state", "address[0].state", TEXT),
            ],
        ),
        Table(
            "encounters",
            rows=resources("Encounter"),
            key=KEY,
            columns=[
                Column("id", "id", FHIR_ID),
                Column("patient_id", "subject.reference", REFERENCE, required=True, refers="patients"),
                Column("status", "status", TEXT, required=True),
                Column("class", "class.code", TEXT),
                Column("code", "type[0].coding[0].code", TEXT),
                Column("display", "type[0].text", TEXT),
                Column("started_at", "period.start", TIMESTAMP),
                Column("ended_at", "period.end", TIMESTAMP),
            ],
        ),
        Table(
            "conditions",
            rows=resources("Condition"),
            key=KEY,
            columns=[
                Column("id", "id", FHIR_ID),
                Column("patient_id", "subject.reference", REFERENCE, required=True, refers="patients"),
                Column("encounter_id", "encounter.reference", REFERENCE, refers="encounters"),
                Column("clinical_status", "clinicalStatus.coding[0].code", TEXT),
                Column("verification_status", "verificationStatus.coding[0].code", TEXT),
                Column("code", "code.coding[0].code", TEXT),
                Column("display", "code.text", TEXT),
                Column("onset_at", "onsetDateTime", TIMESTAMP),
                Column("abated_at", "abatementDateTime", TIMESTAMP),
                Column("recorded_at", "recordedDate", TIMESTAMP),
            ],
        ),
        Table(
            "observations",
            rows=resources("Observation"),
            key=KEY,
            columns=[
                Column("id", "id", FHIR_ID),
                Column("patient_id", "subject.reference", REFERENCE, required=True, refers="patients"),
                Column("encounter_id", "encounter.reference", REFERENCE, refers="encounters"),
                Column("status", "status", TEXT, required=True),
                Column("category", "category[0].coding[0].code", TEXT),
                Column("code", "code.coding[0].code", TEXT),
                Column("display", "code.text", TEXT),
                Column("effective_at", "effectiveDateTime", TIMESTAMP),
                Column("issued_at", "issued", TIMESTAMP),
                # An observation has a quantity, a concept, or components with a quantity each.
                Column("value", "valueQuantity.value", DOUBLE),
                Column("unit", "valueQuantity.unit", TEXT),
                Column("value_code", "valueCodeableConcept.coding[0].code", TEXT),
                Column("value_display", "valueCodeableConcept.text", TEXT),
                Column("components", "component", LIST, default=[]),
            ],
        ),
        Table(
            "medication_requests",
            rows=resources("MedicationRequest"),
            key=KEY,
            columns=[
                Column("id", "id", FHIR_ID),
                Column("patient_id", "subject.reference", REFERENCE, required=True, refers="patients"),
                Column("encounter_id", "encounter.reference", REFERENCE, refers="encounters"),
                Column("reason_condition_id", "reasonReference[0].reference", REFERENCE, refers="conditions"),
                Column("status", "status", TEXT, required=True),
                Column("intent", "intent", TEXT, required=True),
                Column("code", "medicationCodeableConcept.coding[0].code", TEXT),
                Column("display", "medicationCodeableConcept.text", TEXT),
                Column("authored_at", "authoredOn", TIMESTAMP),
                Column("dosage", "dosageInstruction", LIST, default=[]),
            ],
        ),
    ],
)

app = StarForge("fhir-example", mappings=[MAPPING])
