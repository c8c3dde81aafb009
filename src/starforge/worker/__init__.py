"""Workers: a supervisor, and the children that run jobs."""

import importlib
import sys

if "starforge.worker.child" in sys.orig_argv and "structlog" not in sys.modules:
    # structlog loads rich, four megabytes, for tracebacks in colour; no child prints any.
    vars(sys)["modules"]["rich"] = None
    importlib.import_module("structlog.dev")
    del sys.modules["rich"]
