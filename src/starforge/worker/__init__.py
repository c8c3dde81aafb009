"""The worker: a supervisor and its children."""

import sys

if "rich" not in sys.modules:
    # structlog loads it, where it finds it, for tracebacks that no worker shows: 3 MB of each child.
    sys.modules["rich"] = None  # type: ignore[assignment]
    import structlog.dev  # noqa: F401

    del sys.modules["rich"]
