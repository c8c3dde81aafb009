"""Reproduce the figures of decision 0020: which column type and storage mode keeps raw documents.

    python docs/decisions/0020_raw_store.py 18|15

Makes a database on StarForge's embedded server (18) or a throw-away one of Debian's (15) and drops it at
the end. A round writes and reads each document once in each column, in an order of chance; a ratio is the
median of the rounds' ratios to the column in use, so that what else the machine does counts for both.
"""
# ruff: noqa: S608 - statements are put together from the constants below

import asyncio
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import zstandard

from starforge.dev.bench.place import empty_database, serving
from starforge.dev.seed import write_heroes

ROUNDS = 9
SIZES = {"50 kB": (0.05, 20), "2.9 MB": (2.9, 1), "20 MB": (20.0, 1)}  # size in MB, documents per round
UNITS = ("write ms", "read ms", "disk kB", "WAL kB")


@dataclass(frozen=True)
class Column:
    """One way to keep a document."""

    name: str
    type: str
    storage: str
    compression: str = ""
    taken: str = "$1::text"  # how it is written
    given: str = "raw::text"  # how it is read: as the runbooks do, else as its bytes
    pack: Callable[[bytes], object] = bytes.decode
    unpack: Callable[[Any], bytes] = lambda told: told.encode() if isinstance(told, str) else told

    @property
    def table(self) -> str:
        """A name for its table."""
        return "raw_" + "".join(c if c.isalnum() else "_" for c in self.name)


def packed(data: bytes) -> bytes:
    """Compress as an ingest would."""
    return zstandard.ZstdCompressor(level=3).compress(data)


COLUMNS = [
    Column("json external", "json", "EXTERNAL", taken="$1::text::json"),
    Column("json, json_send", "json", "EXTERNAL", taken="$1::text::json", given="json_send(raw)"),
    Column("json pglz", "json", "EXTENDED", "pglz", taken="$1::text::json"),
    Column("json lz4", "json", "EXTENDED", "lz4", taken="$1::text::json"),
    Column("text external", "text", "EXTERNAL"),
    Column("text lz4", "text", "EXTENDED", "lz4"),
    Column("bytea external", "bytea", "EXTERNAL", taken="$1::bytea", given="raw", pack=bytes),
    Column(
        "bytea of zstd",
        "bytea",
        "EXTERNAL",
        taken="$1::bytea",
        given="raw",
        pack=packed,
        unpack=lambda told: zstandard.ZstdDecompressor().decompress(told),
    ),
    Column("jsonb", "jsonb", "EXTENDED", "pglz", taken="$1::text::jsonb"),
]


async def one(conn: asyncpg.Connection, column: Column, data: bytes, times: int) -> tuple[list[float], bool]:
    """Write and read a document so many times; return the figures per document, and whether it came back."""
    await conn.execute(f"TRUNCATE {column.table}")
    wal = await conn.fetchval("SELECT pg_current_wal_insert_lsn()")
    began = time.perf_counter()
    for number in range(times):
        value = column.pack(data)
        await conn.execute(f"INSERT INTO {column.table} VALUES ($2, {column.taken})", value, number)
    write_ms = (time.perf_counter() - began) * 1000 / times
    written = await conn.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)", wal)
    began, same = time.perf_counter(), True
    for number in range(times):
        told = await conn.fetchval(f"SELECT {column.given} FROM {column.table} WHERE id = $1", number)
        same = same and column.unpack(told) == data
    read_ms = (time.perf_counter() - began) * 1000 / times
    disk = await conn.fetchval("SELECT pg_total_relation_size($1::text::regclass)", column.table)
    return [write_ms, read_ms, disk / times / 1000, float(written) / times / 1000], same


async def make(conn: asyncpg.Connection) -> list[Column]:
    """Make the tables; leave out a compression that this server was built without."""
    built = await conn.fetchval("SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'")
    made = [column for column in COLUMNS if not column.compression or column.compression in built]
    for column in made:
        how = f"COMPRESSION {column.compression}" if column.compression else ""
        await conn.execute(
            f"CREATE TABLE {column.table} (id int PRIMARY KEY, raw {column.type} {how} NOT NULL)"
        )
        await conn.execute(f"ALTER TABLE {column.table} ALTER COLUMN raw SET STORAGE {column.storage}")
    return made


async def main(postgres: int | None) -> None:
    """Measure, and print a table for each size."""
    async with serving(postgres) as server, empty_database(server) as url:
        conn = await asyncpg.connect(url)
        print(await conn.fetchval("SELECT version()"))
        columns = await make(conn)
        for size, (size_mb, times) in SIZES.items():
            with tempfile.TemporaryDirectory() as folder:
                write_heroes(Path(folder), count=1, size_mb=size_mb, seed=1)
                data = next(Path(folder).iterdir()).read_bytes()
            got: dict[str, list[list[float]]] = defaultdict(list)
            exact = dict.fromkeys((column.name for column in columns), True)
            for turn in range(ROUNDS + 1):
                for column in random.sample(columns, len(columns)):
                    figures, same = await one(conn, column, data, times)
                    exact[column.name] &= same
                    if turn:  # the first one warms up
                        got[column.name].append(figures)
            show(size, len(data), columns, got, exact)
        await conn.close()


def show(
    size: str,
    size_bytes: int,
    columns: list[Column],
    got: dict[str, list[list[float]]],
    exact: dict[str, bool],
) -> None:
    """Print one table."""
    print(f"\n{size}: {size_bytes:,} bytes; median, and × the first column")
    for column in columns:
        cells = []
        for unit in range(len(UNITS)):
            values = [figures[unit] for figures in got[column.name]]
            ratios = [
                mine / first
                for mine, first in zip(values, (f[unit] for f in got[columns[0].name]), strict=True)
            ]
            cells.append(f"{median(values):,.1f} (×{median(ratios):.2f})")
        answers = "yes" if column.type in ("json", "text") and exact[column.name] else "no"
        print(
            f"| {column.name} | {' | '.join(cells)} | {'yes' if exact[column.name] else 'no'} | {answers} |"
        )


if __name__ == "__main__":
    asyncio.run(main(None if sys.argv[1] == "18" else int(sys.argv[1])))
