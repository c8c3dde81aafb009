"""From what is asked for to a list of partitions."""
