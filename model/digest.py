"""One SHA-256 for a tree of state, the same however its dicts were filled."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np


def tree_hash(tree: Any) -> str:
    """The hex SHA-256 of nested dicts (str keys), lists, arrays and JSON scalars.

    Arrays count by type, shape and bytes; dicts in the order of their keys.
    Raises TypeError for a leaf of another kind.
    """
    digest = hashlib.sha256()
    _feed(digest, tree)
    return digest.hexdigest()


def _feed(digest: Any, node: Any) -> None:
    if isinstance(node, dict):
        digest.update(b"{%d" % len(node))
        for key in sorted(node):
            _feed(digest, key)
            _feed(digest, node[key])
    elif isinstance(node, (list, tuple)):
        digest.update(b"[%d" % len(node))
        for item in node:
            _feed(digest, item)
    elif isinstance(node, np.ndarray):
        array = np.ascontiguousarray(node)
        digest.update(f"a{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    elif node is None or isinstance(node, (bool, int, float, str)):
        text = json.dumps(node).encode()
        digest.update(b"s%d:" % len(text) + text)
    else:
        raise TypeError(f"a {type(node).__name__} has no place in a tree of state")
