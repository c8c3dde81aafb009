"""The ETL's operations: each is declared in the module of its noun; here they are found together."""

from __future__ import annotations

from starforge.etl.ingest import operations as ingest_operations
from starforge.etl.retention import operations as retention_operations
from starforge.etl.snapshot import operations as snapshot_operations
from starforge.etl.source import operations as mapping_operations

__all__ = ["ingest_operations", "mapping_operations", "retention_operations", "snapshot_operations"]
