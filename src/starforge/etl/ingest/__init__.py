"""From an offer to a stored snapshot with its job, or to bytes in quarantine."""
