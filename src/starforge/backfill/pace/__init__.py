"""How much of its concurrency a backfill may use, and when it is stopped."""
