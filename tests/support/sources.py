"""Parsed source files, for the tests that look at all of them: each process parses a file once."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the parsed file. The tree is shared: nobody may change it."""
    return ast.parse(path.read_text(encoding="utf-8"))
