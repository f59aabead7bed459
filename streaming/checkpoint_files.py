"""The files of a checkpoint, and the chain of those that it builds on.

A folder holds `state.safetensors`, `tree.json`, and `manifest.json` with size and SHA-256 of both.
Tables of rows (`model.keyed.Rows`) are there whole, or as what changed since the checkpoint that
the manifest names as `base`, by name and by the SHA-256 of that one's manifest. So a chain leads to
a whole one, and nobody can take another's link for it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.arrays import Buffer, pack, unpack
from model.keyed import Rows, merged
from streaming.failpoint import failpoint
from streaming.tree import flatten, unflatten

FORMAT = 2
STATE, TREE, MANIFEST = "state.safetensors", "tree.json", "manifest.json"
NOT_WHOLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading raises for files that were torn or changed."""


@dataclass(frozen=True)
class Parts:
    """A tree as a JSON document and named arrays; `tables` says where in it tables of rows are."""

    document: str
    arrays: dict[str, np.ndarray]
    tables: list[dict[str, Any]]


def laid_out(tree: dict[str, Any]) -> Parts:
    """The parts of a tree. ValueError names the leaf that does not fit."""
    tables: list[dict[str, Any]] = []
    return Parts(*flatten(_apart(tree, [], tables)), tables)


def write(folder: Path, parts: Parts, epoch: int, step: int, base: Path | None) -> None:
    """Writes and fsyncs the files into an empty folder, and the folder."""
    assert base is not None or all(table["whole"] for table in parts.tables)
    files = {STATE: _write(folder / STATE, pack(parts.arrays, {}))}
    failpoint("checkpoint.state")
    files[TREE] = _write(folder / TREE, [parts.document.encode()])
    failpoint("checkpoint.tree")
    content: dict[str, Any] = {"format": FORMAT, "epoch": epoch, "step": step, "files": files}
    content["tables"] = parts.tables
    content["base"] = None if base is None else {"name": base.name, "sha256": _of_manifest(base)}
    _write(folder / MANIFEST, [json.dumps(content, separators=(",", ":")).encode()])
    failpoint("checkpoint.manifest")
    fsync_folder(folder)
    failpoint("checkpoint.synced")


def read(path: Path) -> dict[str, Any]:
    """The tree, its tables put together. Raises one of `NOT_WHOLE` where a byte of the chain is not
    as it was written."""
    tree: dict[str, Any] = {}
    for link in reversed(chain(path)):
        content = _manifest(link)
        state = _verified(link / STATE, content["files"][STATE])
        document = _verified(link / TREE, content["files"][TREE])
        arrays, _ = unpack(state)
        before, tree = tree, unflatten(document.decode(), arrays)
        for table in content["tables"]:
            *above, last = table["at"]
            node = _at(tree, above)
            rows = Rows(whole=table["whole"], **node[last])
            node[last] = merged({} if rows.whole else _at(before, table["at"]), rows)
    return tree


def put_together(before: Any, tree: Any) -> Any:
    """`tree`, with its tables whole: those of `before`, after what changed."""
    if isinstance(tree, Rows):
        rows = Rows(tree.arrays, tree.whole, tree.gone)
        return Rows(merged(before or {}, rows), True, rest=tree.rest)
    if type(tree) is not dict:
        return tree
    known = before if isinstance(before, dict) else {}
    return {name: put_together(known.get(name), node) for name, node in tree.items()}


def chain(path: Path) -> list[Path]:
    """The checkpoint and those it builds on, the whole one last. Raises one of `NOT_WHOLE` where a
    link is missing, or is another, or a file has not its size."""
    links = [path]
    while True:
        content = _manifest(links[-1])
        name = f"epoch-{content['epoch']:06d}.step-{content['step']:012d}"
        if content["format"] != FORMAT:
            raise ValueError(f"{MANIFEST} is of format {content['format']}, expected {FORMAT}")
        if name != links[-1].name:
            raise ValueError(f"{MANIFEST} in {links[-1].name} is that of {name}")
        for file, said in content["files"].items():
            size = (links[-1] / file).stat().st_size
            if size != said["size"]:
                raise ValueError(f"{links[-1].name}/{file} has {size} bytes, not {said['size']}")
        base = content["base"]
        if base is None:
            return links
        links.append(path.parent / base["name"])
        if len(links) != len(set(links)) or _of_manifest(links[-1]) != base["sha256"]:
            raise ValueError(f"{links[-1].name} is not the one that {links[-2].name} builds on")


def size_of(path: Path) -> int:
    """Bytes of one checkpoint's files, as its manifest says."""
    return sum(int(file["size"]) for file in _manifest(path)["files"].values())


def fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _apart(node: Any, at: list[str], tables: list[dict[str, Any]]) -> Any:
    """The tree with each `Rows` in it as a dict; `tables` says where they are."""
    if isinstance(node, Rows):
        tables.append({"at": at, "whole": node.whole})
        return {"arrays": node.arrays, "gone": node.gone, "rest": node.rest}
    if type(node) is not dict:
        return node
    return {name: _apart(child, [*at, name], tables) for name, child in node.items()}


def _at(tree: dict[str, Any], path: list[str]) -> dict[str, Any]:
    node: dict[str, Any] = tree
    for name in path:
        node = node[name]
    return node


def _write(path: Path, pieces: Iterable[Buffer]) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with open(path, "xb", buffering=0) as file:
        for piece in pieces:
            rest = memoryview(piece)
            digest.update(rest)
            size += len(rest)
            while rest:
                rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _of_manifest(path: Path) -> str:
    return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()


def _manifest(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    if content["files"].keys() != {STATE, TREE}:
        raise ValueError(f"{MANIFEST} names other files")
    return content


def _verified(path: Path, expected: dict[str, Any]) -> bytearray:
    data = bytearray(path.stat().st_size)
    with open(path, "rb") as file:
        read = file.readinto(data)
    digest = hashlib.sha256(data).hexdigest()
    if read != expected["size"] or digest != expected["sha256"]:
        where = f"{path.parent.name}/{path.name}"
        raise ValueError(f"{where} has SHA-256 {digest}, expected {expected['sha256']}")
    return data
