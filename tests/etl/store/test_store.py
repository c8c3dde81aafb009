"""The object store: the same five verbs in a folder and in a bucket."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from email.utils import formatdate
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import pytest

from starforge.clock import FailpointError, Failpoints
from starforge.etl.errors import (
    ObjectKeyError,
    ObjectMissingError,
    StoreNotAllowedError,
    StoreRefusedError,
    StoreUnreachableError,
)
from starforge.etl.store import cloud, local
from starforge.etl.store.local import PARTIAL, LocalStore
from starforge.etl.store.objects import Head, ObjectStore, keys_of, new_key, require_key
from starforge.etl.store.store import object_store, store_at

BUCKET = "snapshots"

AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's account and key, the same everywhere: they open nothing else."""

ENDS = """
import asyncio, sys
from starforge.etl.store.store import store_at
store = store_at(sys.argv[1])
assert asyncio.run(store.head("raw/none")) is None
"""


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def whole(store: ObjectStore, key: str, **how: int) -> bytes:
    return b"".join([chunk async for chunk in store.get(key, **how)])


async def listed(store: ObjectStore, prefix: str = "") -> list[str]:
    return [head.key async for page in store.list(prefix) for head in page]


@pytest.fixture(scope="session")
def bucket_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that speaks S3 and Google's XML, on a port of its own choosing."""
    told = tmp_path_factory.mktemp("moto") / "log"
    with a_server([sys.executable, "-m", "tests.etl.store.buckets"], told) as url:
        yield url


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Azurite, Microsoft's own emulator, where somebody has installed it."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azurite is missing: npm install --global azurite")
    words = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--blobPort", "0"]
    with a_server([program, *words], tmp_path_factory.mktemp("azurite") / "log") as url:
        yield f"{url}/{AZURE_ACCOUNT}"


@contextmanager
def a_server(words: list[str], told: Path) -> Iterator[str]:
    """Start a program that says its URL when it listens."""
    with told.open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=Path(__file__).parents[3])
    try:
        until_s = monotonic() + 30
        while not (found := re.search(r"(?:Running|listens) on (http://127\.0\.0\.1:\d+)", told.read_text())):
            assert process.poll() is None, told.read_text()
            assert monotonic() < until_s, told.read_text()
            sleep(0.05)
        yield found[1]
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def bucket(bucket_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a bucket, and the environment that its client needs."""
    for name, value in {
        "STARFORGE_OBJECT_STORE_ENDPOINT": bucket_server,
        "STARFORGE_OBJECT_STORE_WAIT_S": "1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    _make_bucket(bucket_server)
    return f"s3://{BUCKET}"


@pytest.fixture
def google_bucket(bucket: str, bucket_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same bucket, by the name under which Google's client asks for it."""
    login = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps({"gcs_base_url": bucket_server, **login}))
    return bucket.replace("s3://", "gs://")


@pytest.fixture
def azure_container(azure_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a container of the test's own, and the environment that its client needs."""
    for name, value in {
        "STARFORGE_OBJECT_STORE_ENDPOINT": azure_server,
        "STARFORGE_OBJECT_STORE_WAIT_S": "1",
        "AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY,
    }.items():
        monkeypatch.setenv(name, value)
    container = f"c{uuid4().hex}"
    _make_container(azure_server, container)
    return f"az://{container}"


def _make_bucket(server: str) -> None:
    for path, method in (("/moto-api/reset", "POST"), (f"/{BUCKET}", "PUT")):
        urllib.request.urlopen(urllib.request.Request(server + path, method=method), timeout=10).close()


def _make_container(server: str, container: str) -> None:
    """Sign a request as Azure's "Authorize with Shared Key" says: the client makes no containers."""
    date, version = formatdate(usegmt=True), "2021-08-06"
    about = [f"x-ms-date:{date}", f"x-ms-version:{version}"]
    path = f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{container}"
    signed = "\n".join(["PUT", *[""] * 11, *about, path, "restype:container"])
    proof = base64.b64encode(hmac.digest(base64.b64decode(AZURE_KEY), signed.encode(), "sha256")).decode()
    headers = {
        "x-ms-date": date,
        "x-ms-version": version,
        "Content-Length": "0",
        "Authorization": f"SharedKey {AZURE_ACCOUNT}:{proof}",
    }
    request = urllib.request.Request(f"{server}/{container}?restype=container", method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=10).close()


SERVED = [
    pytest.param(kind, marks=pytest.mark.server) for kind in ("bucket", "google_bucket", "azure_container")
]


@pytest.fixture(params=["folder", *SERVED])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Each kind of store, empty."""
    if request.param == "folder":
        return store_at((tmp_path / "objects").as_uri())
    return store_at(f"{request.getfixturevalue(request.param)}/under/here")


async def test_what_is_put_is_got_byte_for_byte(store: ObjectStore) -> None:
    """Chunks of any size, and none."""
    data = os.urandom(3_000_000)
    pieces = [data[:1], data[1:2_500_000], b"", data[2_500_000:]]
    assert await store.put("raw/a", chunks_of(*pieces)) == len(data)
    assert await whole(store, "raw/a") == data
    assert await whole(store, "raw/a", offset=2_999_990) == data[-10:]
    assert await store.put("raw/empty", chunks_of()) == 0
    assert await whole(store, "raw/empty") == b""


async def test_a_large_object_goes_in_parts(store: ObjectStore) -> None:
    """More than one part of a multipart upload."""
    piece = bytes(range(256)) * 4096
    assert await store.put("raw/large", chunks_of(*[piece] * 24)) == 24 << 20
    head = await store.head("raw/large")
    assert head is not None
    assert head.size_bytes == 24 << 20
    got = 0
    async for chunk in store.get("raw/large"):
        assert len(chunk) <= 4 << 20
        assert chunk == (piece * 6)[got % len(piece) :][: len(chunk)]
        got += len(chunk)
    assert got == 24 << 20


async def test_head_tells_size_and_age_and_none_where_there_is_no_object(store: ObjectStore) -> None:
    await store.put("raw/a", chunks_of(b"12345"))
    head = await store.head("raw/a")
    assert head is not None
    assert (head.key, head.size_bytes) == ("raw/a", 5)
    assert head.age_s < 60
    assert await store.head("raw/b") is None
    assert await store.head("raw") is None


async def test_a_list_has_what_is_below_its_prefix_and_nothing_beside_it(store: ObjectStore) -> None:
    """A prefix is whole names."""
    for key in ("raw/a/1", "raw/a/2", "raw/ab/3", "other"):
        await store.put(key, chunks_of(b"x"))
    assert await listed(store) == ["other", "raw/a/1", "raw/a/2", "raw/ab/3"]
    assert await listed(store, "raw/a") == await listed(store, "raw/a/") == ["raw/a/1", "raw/a/2"]
    assert await listed(store, "no") == []


async def test_a_long_list_comes_in_pages(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (local, cloud):
        monkeypatch.setattr(module, "PAGE_KEYS", 4)
    for number in range(9):
        await store.put(f"many/{number}", chunks_of(b"x"))
    assert [len(page) async for page in store.list("many")] == [4, 4, 1]


async def test_deleting_twice_is_deleting_once(store: ObjectStore) -> None:
    await store.put("raw/a", chunks_of(b"x"))
    await store.delete("raw/a")
    await store.delete("raw/a")
    assert await store.head("raw/a") is None
    with pytest.raises(ObjectMissingError, match="raw/a"):
        await whole(store, "raw/a")


@pytest.mark.parametrize("size", [10, 12_000_000])
async def test_an_object_whose_writer_fails_is_never_seen(store: ObjectStore, size: int) -> None:
    """Neither while it is written nor afterwards, and the writer's error comes through."""
    seen: list[str] = []

    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * size
        seen.extend(await listed(store))
        raise ValueError("the source broke")

    with pytest.raises(ValueError, match="the source broke"):
        await store.put("raw/a", failing())
    assert seen == await listed(store) == []


async def test_a_put_replaces_the_whole_object(store: ObjectStore) -> None:
    """Whoever reads meanwhile has the one or the other."""
    await store.put("raw/a", chunks_of(b"long before"))
    await store.put("raw/a", chunks_of(b"now"))
    assert await whole(store, "raw/a") == b"now"


async def test_a_reader_may_leave_early(store: ObjectStore) -> None:
    await store.put("raw/a", chunks_of(b"x" * 5_000_000))
    async with aclosing(store.get("raw/a")) as reading:
        async for chunk in reading:
            assert chunk
            break
    assert await whole(store, "raw/a") == b"x" * 5_000_000


async def test_a_process_ends_well_right_after_its_last_word_with_a_bucket(bucket: str) -> None:
    """The client's threads are at rest when the interpreter ends; one that is not aborts the process."""
    ending = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", ENDS, bucket, cwd=Path(__file__).parents[3]
        )
        for _ in range(8)
    ]
    assert [await process.wait() for process in ending] == [0] * 8


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a/..",
        "a/./b",
        "a//b",
        "a/",
        "a\0b",
        "a b",
        "ä",
        "a" * 901,
        "a\n",
    ],
)
async def test_a_key_that_could_lead_out_of_the_store_is_refused(store: ObjectStore, key: str) -> None:
    """By every verb."""
    verbs: list[Any] = [
        store.head(key),
        store.delete(key),
        store.put(key, chunks_of(b"x")),
        whole(store, key),
    ]
    for verb in verbs:
        with pytest.raises(ObjectKeyError):
            await verb
    if key not in ("", "a/"):
        with pytest.raises(ObjectKeyError):
            await listed(store, key)


async def test_an_object_store_that_is_not_there_is_said_so(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where the folder should be, a bucket that nobody made, a server that is gone."""
    (tmp_path / "file").touch()
    with pytest.raises((StoreUnreachableError, StoreRefusedError)):
        await store_at((tmp_path / "file" / "x").as_uri()).put("a", chunks_of(b"x"))
    with pytest.raises((StoreRefusedError, ObjectMissingError)):
        await store_at("s3://nobody-made-this").put("a", chunks_of(b"x"))
    monkeypatch.setenv("STARFORGE_OBJECT_STORE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreUnreachableError):
        await store_at(bucket).head("a")


def test_a_folder_is_for_this_user_alone_and_its_objects_too(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "objects")
    asyncio.run(store.put("raw/t/1", chunks_of(b"x")))
    for path, mode in (("", 0o700), ("raw", 0o700), ("raw/t", 0o700), ("raw/t/1", 0o600)):
        assert stat.S_IMODE((store.folder / path).stat().st_mode) == mode
    with pytest.raises(StoreRefusedError):
        asyncio.run(store.head(f"{PARTIAL}/x"))


async def test_a_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "objects")
    await store.put("a", chunks_of(b"x"))
    (store.folder / "b").symlink_to("/etc/hostname")
    with pytest.raises(StoreUnreachableError):
        await whole(store, "b")


async def test_a_process_that_dies_before_the_name_is_given_leaves_no_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it leaves is forgotten by the next one, a day later."""
    store = LocalStore(tmp_path / "objects")
    monkeypatch.setattr("starforge.clock.failpoints", lambda: Failpoints("store_put_rename:raise"))
    with pytest.raises(FailpointError):
        await store.put("a", chunks_of(b"x"))
    assert [*(store.folder / PARTIAL).iterdir()] == []
    monkeypatch.undo()
    dead = store.folder / PARTIAL / "dead"
    dead.touch()
    await store.put("b", chunks_of(b"x"))
    assert dead.exists()
    os.utime(dead, (0, 0))
    await store.put("b", chunks_of(b"x"))
    assert not dead.exists()
    assert await listed(store) == ["b"]


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/x", "https://host/x", "ftp://x", "/folder", "file://host/x", "file:///a/../b",
     "s3://user:secret@bucket", "s3://bucket?x=1", "s3://", "s3://bucket/../x", "memory:///", "abfs://x"],
)  # fmt: skip
def test_only_the_allowed_kinds_of_store_are_opened(url: str) -> None:
    with pytest.raises((StoreNotAllowedError, ObjectKeyError)) as caught:
        store_at(url)
    assert "secret" not in str(caught.value)


def test_plain_http_to_another_machine_is_not_allowed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFORGE_OBJECT_STORE_ENDPOINT", "http://169.254.169.254")
    with pytest.raises(StoreNotAllowedError):
        store_at(bucket)


def test_the_store_is_a_folder_of_home_unless_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFORGE_HOME", str(tmp_path))
    assert object_store().name == f"file://{tmp_path}/objects"
    monkeypatch.setenv("STARFORGE_OBJECT_STORE", f"file://{tmp_path}/else%20where")
    assert object_store().name == f"file://{tmp_path}/else%20where"


def test_a_key_names_its_tenant_and_is_new_each_time() -> None:
    for tenant in ("default", "..", "a/b", "ä ~.", "x" * 64):
        key = new_key(tenant)
        assert require_key(key).startswith(f"{keys_of(tenant)}/")
        assert key != new_key(tenant)
    assert Head("a", 1, 0.0) == Head("a", 1, 0.0)
