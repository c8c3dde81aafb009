"""Schemes: how an asset is cut into partitions."""
