"""The operations on backfills: each is declared in a module of its kind; here they are found together."""

from __future__ import annotations

from starforge.backfill.act import (
    bulk_operations,
    clone_operations,
    create_operations,
    lease_operations,
    retry_operations,
    set_operations,
    state_operations,
)

__all__ = [
    "bulk_operations",
    "clone_operations",
    "create_operations",
    "lease_operations",
    "retry_operations",
    "set_operations",
    "state_operations",
]
