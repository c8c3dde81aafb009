"""Workers: a supervisor, and the children that run jobs."""

import sys

if "starforge.worker.child" in sys.orig_argv and "structlog" not in sys.modules:
    # structlog loads rich, four megabytes, for tracebacks in colour; no child prints any.
    vars(sys)["modules"]["rich"] = None
    import structlog.dev  # noqa: F401

    del sys.modules["rich"]
