"""What people do to backfills."""
