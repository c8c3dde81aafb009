"""The states of a backfill, and what must hold in them."""
