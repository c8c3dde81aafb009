"""The ETL's operations: each is declared in the module of its noun; here they are found together."""

from __future__ import annotations

from starforge.etl import ingest_operations, mapping_operations, retention_operations, snapshot_operations

__all__ = ["ingest_operations", "mapping_operations", "retention_operations", "snapshot_operations"]
