"""The settings of the web room."""

from __future__ import annotations

from starforge.settings import Settings, setting

MIB = 1 << 20


class WebSettings(Settings):
    """Where the server listens, what it goes by, and how much it takes."""

    host: str = setting(
        "127.0.0.1",
        env="STARFORGE_HTTP_HOST",
        unit="address",
        meaning="Address that the server listens on; one that other machines can reach is refused.",
    )
    port: int = setting(
        8080,
        env="STARFORGE_HTTP_PORT",
        unit="port",
        meaning="Port that the server listens on; 0 takes any free one.",
        ge=0,
        le=65535,
    )
    expose: bool = setting(
        False,
        env="STARFORGE_HTTP_EXPOSE",
        unit="yes/no",
        meaning="Allow an address that other machines can reach; then reading needs a token too.",
    )
    hosts: str = setting(
        "",
        env="STARFORGE_HTTP_HOSTS",
        unit="names",
        meaning="Host names, separated by commas, that the server goes by beside localhost and its address.",
    )
    body_bytes_max: int = setting(
        1_000_000,
        env="STARFORGE_HTTP_BODY_BYTES_MAX",
        unit="bytes",
        meaning="Largest body of a request for an operation.",
        ge=1024,
    )
    operation_s: float = setting(
        30.0,
        env="STARFORGE_HTTP_OPERATION_S",
        unit="seconds",
        meaning="Longest time that a request waits for its operation.",
        gt=0,
    )

    def names(self) -> frozenset[str]:
        """Return the configured host names in lower case."""
        return frozenset(name.strip().lower() for name in self.hosts.split(",") if name.strip())


class IngestSettings(Settings):
    """How much of a snapshot, how fast and from whom, the server takes over HTTP."""

    bytes_max: int = setting(
        64 * MIB,
        env="STARFORGE_INGEST_BYTES_MAX",
        unit="bytes",
        meaning="Largest snapshot taken over HTTP, as it comes and unpacked; in a batch, the longest line.",
        ge=1024,
        le=256 * MIB,
    )
    batch_bytes_max: int = setting(
        1024 * MIB,
        env="STARFORGE_INGEST_BATCH_BYTES_MAX",
        unit="bytes",
        meaning="Largest batch taken in one request, as it comes and unpacked.",
        ge=1024,
    )
    rate_per_s: float = setting(
        1000.0,
        env="STARFORGE_INGEST_RATE_PER_S",
        unit="snapshots/s",
        meaning="Snapshots that one client (a token's name) may offer to one server in the long run.",
        gt=0,
    )
    burst: int = setting(
        2000,
        env="STARFORGE_INGEST_BURST",
        unit="snapshots",
        meaning="Snapshots that a client may offer at once after a rest.",
        ge=1,
    )
    body_s: float = setting(
        10.0,
        env="STARFORGE_INGEST_BODY_S",
        unit="seconds",
        meaning="Time that a body may take to arrive beside what its size allows.",
        gt=0,
    )
    body_bytes_per_s: int = setting(
        50_000,
        env="STARFORGE_INGEST_BODY_BYTES_PER_S",
        unit="bytes/s",
        meaning="Slowest pace at which a body may arrive.",
        ge=1,
    )
