"""How a backfill runs: its coordinator, and attempts at its partitions."""
