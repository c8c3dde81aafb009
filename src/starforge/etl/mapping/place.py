"""Where in its user's source a declaration stands, so that what is wrong with it is told with its line."""

from __future__ import annotations

import dataclasses
import os
import sys

GENERATED = "<string>"
"""The file of what dataclasses generate."""


def here() -> str:
    """Return `file:line` of whoever uses the word that calls this, past the words' own code."""
    frame = sys._getframe(1)
    own = os.path.dirname(__file__)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if file not in (GENERATED, dataclasses.__file__) and os.path.dirname(file) != own:
            return f"{_shown(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _shown(file: str) -> str:
    """Name a file from where the process stands, if it lies below."""
    try:
        near = os.path.relpath(file)
    except (ValueError, OSError):  # another drive, or the folder is gone
        return file
    return file if near.startswith("..") else near
