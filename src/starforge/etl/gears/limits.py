"""Limits: how much of a document is in memory at once, and how much of it in one transaction."""

from __future__ import annotations

from functools import cache

from starforge.settings import Settings, setting


class ProcessSettings(Settings):
    """How much of a snapshot is in memory, and in one transaction."""

    whole_max_mb: float = setting(
        8.0,
        env="STARFORGE_ETL_WHOLE_MAX_MB",
        unit="MB (1 000 000 bytes)",
        meaning="Largest document that is read as a whole; a larger one is read in pieces.",
        gt=0,
        le=64,
    )
    together_max_mb: float = setting(
        1.0,
        env="STARFORGE_ETL_TOGETHER_MAX_MB",
        unit="MB (1 000 000 bytes)",
        meaning="Largest snapshot written in one transaction; of a larger one each entity has its own.",
        ge=0,
    )
    batch_rows: int = setting(
        5_000,
        env="STARFORGE_ETL_BATCH_ROWS",
        unit="rows",
        meaning="Rows that are sent to the database together, and items of a document in pieces in memory.",
        ge=1,
        le=100_000,
    )


@cache
def process_settings() -> ProcessSettings:
    """Read the settings once per process."""
    return ProcessSettings.read()
