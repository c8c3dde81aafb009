"""When a backfill will end."""
