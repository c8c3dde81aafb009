"""The URL of a database: shown without its password, and with another user."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit


def shown(url: str) -> str:
    """Return a URL without its password, fit for messages and logs; what is no URL is not shown at all."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "localhost", f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the database of DATABASE_URL"
    if not url.startswith(("postgres://", "postgresql://")):
        return "the database of DATABASE_URL"
    user = f"{parts.username}@" if parts.username else ""
    return urlunsplit((parts.scheme, f"{user}{host}{port}", parts.path, "", ""))


def with_user(url: str, user: str, password: str | None = None) -> str:
    """Return the URL with another user, and with no password where none is given."""
    parts = urlsplit(url)
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    host = parts.netloc.rpartition("@")[2]
    options = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("user", "password")]
    return urlunsplit((parts.scheme, f"{login}@{host}", parts.path, urlencode(options), parts.fragment))
