"""The settings of the web room."""

from __future__ import annotations

from starforge.settings import Settings, setting


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
