"""The job that turns a stored snapshot into rows of the user's tables."""
