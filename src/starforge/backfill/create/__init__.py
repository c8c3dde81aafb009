"""How a backfill is made."""
