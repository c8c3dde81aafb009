"""The routes of ingestion, and how the API's description shows them."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.routing import Route

from starforge.app import StarForge
from starforge.db.pool import Pool
from starforge.web.api.answer import SNAPSHOTS, BatchEnd, LineAnswer, MalformedProblem, Offered, SnapshotState
from starforge.web.api.asked import JSON_TYPES, LINE_TYPES, OFFERS
from starforge.web.api.batch import MEDIA_TYPE as NDJSON
from starforge.web.api.batch import take_batch
from starforge.web.api.snapshots import Door, Offering, show_state, take_one
from starforge.web.doors import KEY_HEADER, REFS
from starforge.web.problem import MEDIA_TYPE, Problem

ANSWERS = (Offered, LineAnswer, BatchEnd, MalformedProblem, SnapshotState, Problem)


def add_snapshots(app: FastAPI, pool: Pool, star: StarForge) -> tuple[dict[str, Any], dict[str, Any]]:
    """Add the routes; return their paths for the API's description, and the schemas that these refer to.

    They stand first and are no routes of the framework's: a snapshot pays for no machinery that it does not
    use, and its body is read as it comes.
    """
    door = Door(pool, star)
    one = Offering(door, take_one, types=JSON_TYPES, limit="bytes_max")
    many = Offering(door, take_batch, types=LINE_TYPES, limit="batch_bytes_max")
    app.router.routes[:0] = [
        Route(SNAPSHOTS, one, methods=["POST"]),
        Route(f"{SNAPSHOTS}/batch", many, methods=["POST"]),
        Route(f"{SNAPSHOTS}/{{snapshot_id}}", partial(show_state, door), methods=["GET"]),
    ]
    _, schemas = msgspec.json.schema_components(ANSWERS, ref_template=REFS)
    return _paths(), dict(schemas)


def _paths() -> dict[str, Any]:
    return {
        SNAPSHOTS: {
            "post": {
                "summary": "Offer one snapshot: JSON, plain or packed with gzip or zstd.",
                "operationId": "snapshot_ingest",
                "parameters": [*_parameters(), _KEY],
                "requestBody": _body("application/json", {}),
                "responses": {
                    "200": _content("Known content; nothing was stored.", "application/json", "Offered"),
                    "202": _content("Taken.", "application/json", "Offered"),
                    "400": _content("No JSON: where and why.", MEDIA_TYPE, "MalformedProblem"),
                    "default": _REFUSED,
                },
                **_COMMON,
            }
        },
        f"{SNAPSHOTS}/batch": {
            "post": {
                "summary": "Offer many snapshots, one a line; the answer has a line for each and a last one.",
                "operationId": "snapshot_ingest_batch",
                "parameters": _parameters(),
                "requestBody": _body(NDJSON, {"type": "string"}),
                "responses": {
                    "200": {
                        "description": "What became of each line, then of the batch.",
                        "content": {NDJSON: {"schema": {"oneOf": [_ref("LineAnswer"), _ref("BatchEnd")]}}},
                    },
                    "default": _REFUSED,
                },
                **_COMMON,
            }
        },
        f"{SNAPSHOTS}/{{snapshot_id}}": {
            "get": {
                "summary": "What became of a snapshot.",
                "operationId": "snapshot_state",
                "parameters": [
                    {
                        "name": "snapshot_id",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string", "format": "uuid"},
                    }
                ],
                "responses": {
                    "200": _content("Its state.", "application/json", "SnapshotState"),
                    "default": _REFUSED,
                },
                "tags": ["snapshot"],
                "security": [{"token": []}],
            }
        },
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": REFS.format(name=name)}


def _content(description: str, media_type: str, name: str) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": _ref(name)}}}


def _body(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {media_type: {"schema": schema}}}


def _parameters() -> list[dict[str, Any]]:
    return [
        _query("source", "Source whose mapping applies; hero where none is given.", "string"),
        _query("captured_at", "When it was taken; else the document says so, else now.", "date-time"),
        _query("keep", "Keep what is no JSON in quarantine.", "boolean"),
    ]


def _query(name: str, description: str, kind: str) -> dict[str, Any]:
    schema = {"type": "string", "format": kind} if kind == "date-time" else {"type": kind}
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


_KEY = {
    "name": KEY_HEADER,
    "in": "header",
    "required": False,
    "description": "Repeating an offer with its key returns the first answer.",
    "schema": {"type": "string", "maxLength": 200},
}
_REFUSED = _content("Refused, with the reason.", MEDIA_TYPE, "Problem")
_COMMON: dict[str, Any] = {"tags": ["snapshot"], "security": [{"token": []}], "x-roles": list(OFFERS)}
