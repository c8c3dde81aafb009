"""The two gears that turn a document into rows: whole in memory, or a piece at a time."""
