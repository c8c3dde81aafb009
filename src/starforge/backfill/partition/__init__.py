"""The partition: what a handler is given, and the walk over its rows."""
