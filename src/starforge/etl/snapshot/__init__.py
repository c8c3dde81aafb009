"""A stored snapshot: its states, what is held back or went wrong, and what people see of it."""
