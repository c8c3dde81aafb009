"""What is shown of backfills."""
