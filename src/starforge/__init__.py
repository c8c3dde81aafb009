"""StarForge: durable jobs, a snapshot ETL and backfills on Postgres, with the runbooks built in."""

from importlib.metadata import version

__version__ = version("starforge-jobs")
