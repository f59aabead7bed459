"""A component's state, a tree of dicts, as one JSON document beside named arrays, and back.

Leaves are numpy arrays, int, float, bool, str and None; dicts have str keys; lists hold the same.
An array's name is its JSON pointer (RFC 6901). What JSON has no word for is a dict with one
reserved key: {"$array": name} and {"$float": "nan" | "inf" | "-inf"}; a key that begins with "$"
is written with one more. Everything comes back equal, of the same type, in the same order.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from model.arrays import code_of

_ARRAY, _FLOAT = "$array", "$float"
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def flatten(tree: dict[str, Any]) -> tuple[str, dict[str, np.ndarray]]:
    """The JSON document and the arrays by name. ValueError names the leaf that does not fit."""
    arrays: dict[str, np.ndarray] = {}
    document = _down(tree, "", arrays)
    return json.dumps(document, allow_nan=False, separators=(",", ":")), arrays


def unflatten(document: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The tree again. ValueError where the two parts do not belong together."""
    left = dict(arrays)
    tree = _up(json.loads(document), left)
    if left or not isinstance(tree, dict):
        raise ValueError(f"not a tree: arrays without a place: {sorted(left)[:3]}")
    return tree


def _down(node: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    kind = type(node)
    if node is None or kind in (bool, int, str):
        return node
    if kind is float:
        return node if math.isfinite(node) else {_FLOAT: str(node)}
    if kind is list:
        return [_down(child, f"{path}/{n}", arrays) for n, child in enumerate(node)]
    if kind is np.ndarray:
        code_of(path, node)
        _encodable(path)
        arrays[path] = node
        return {_ARRAY: path}
    if kind is not dict:
        raise ValueError(
            f"state {path!r} is a {kind.__module__}.{kind.__qualname__}: expected a dict, a list, "
            "a numpy array, int, float, bool, str or None"
        )
    children = {}
    for key, child in node.items():
        if type(key) is not str:
            raise ValueError(f"state {path!r} has the key {key!r}: expected a str")
        step = key.replace("~", "~0").replace("/", "~1")
        children["$" + key if key.startswith("$") else key] = _down(child, f"{path}/{step}", arrays)
    return children


def _encodable(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"state {path!r}: expected keys that UTF-8 can hold") from None


def _up(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(node, list):
        return [_up(child, arrays) for child in node]
    if not isinstance(node, dict):
        return node
    if node.keys() == {_ARRAY}:
        if node[_ARRAY] not in arrays:
            raise ValueError(f"not a tree: no array {node[_ARRAY]!r}")
        return arrays.pop(node[_ARRAY])
    if node.keys() == {_FLOAT}:
        return _NOT_FINITE[node[_FLOAT]]
    return {key.removeprefix("$"): _up(child, arrays) for key, child in node.items()}
