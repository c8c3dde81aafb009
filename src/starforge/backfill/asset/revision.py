"""The version of an asset's code: what it says itself, or a hash of its handler's source.

A partition that was made by another version is stale. The hash is that of the function as Python reads it:
comments, blank lines, its docstring and its decorators do not count. What it calls does not count either:
an asset whose sense lies in other functions states a `version=`.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any

HASH_CHARS = 16


def revision_of(handler: Callable[..., Any]) -> str:
    """Return the hash of a function's code, as `src:…`; as `code:…` where no source can be had.

    The second kind changes with the version of Python.
    """
    function = _function(handler)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        return f"src:{_hash(_bare(tree.body[0]).encode())}"
    except (OSError, TypeError, SyntaxError, IndexError):
        code = getattr(function, "__code__", None)
        told = _of_code(code) if isinstance(code, CodeType) else type(handler).__qualname__.encode()
        return f"code:{_hash(told)}"


def _function(handler: Callable[..., Any]) -> Any:
    while isinstance(handler, partial):
        handler = handler.func
    found = inspect.unwrap(handler)
    return found if inspect.isroutine(found) else type(found).__call__


def _bare(node: ast.stmt) -> str:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        node.decorator_list = []
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(node)


def _of_code(code: CodeType) -> bytes:
    inner = [
        _of_code(const) if isinstance(const, CodeType) else repr(const).encode() for const in code.co_consts
    ]
    return b"\0".join([code.co_code, repr(code.co_names).encode(), *inner])


def _hash(told: bytes) -> str:
    return hashlib.sha256(told).hexdigest()[:HASH_CHARS]
