"""Checkpoints: all that the learner needs to go on as if nothing had happened, as one folder.

`save` takes these steps; a crash after each leaves, at the next start:

1. removes what an earlier crash left unfinished: nothing new
2. makes `.saving-<name>`: an unfinished folder, which nobody reads
3. writes and fsyncs `state.safetensors` and `tree.json` there: the same
4. writes and fsyncs `manifest.json` there, with size and SHA-256 of each file: the same
5. fsyncs the folder: the same
6. renames it to `<name>` (one of the same name is set aside first, as `.removing-<name>`): the
   new checkpoint, or, between the two or if the machine went down too, the one before
7. fsyncs the parent: the new checkpoint
8. removes what was set aside, and the older ones but the last `keep`, each renamed in the same
   way first: the new checkpoint, and maybe more old ones than `keep`

So at every moment the newest whole folder is a state that the learner was in.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.arrays import Buffer, pack, unpack
from streaming.tree import flatten, unflatten

_FORMAT = 1
_STATE, _TREE, _MANIFEST = "state.safetensors", "tree.json", "manifest.json"
_NAME = re.compile(r"epoch-(\d{6,})\.step-(\d{12,})")
_UNFINISHED = re.compile(r"\.(saving|removing)-" + _NAME.pattern)
_NOT_WHOLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
_log = logging.getLogger("freshet.checkpoint")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """`tree` is the state that was saved (its arrays can be written to); `path` its folder."""

    tree: dict[str, Any]
    epoch: int
    step: int
    path: Path


class Checkpoints:
    """The checkpoints of one learner, in one folder, ordered by (epoch, step).

    Only the learner that owns the folder may `save`; anyone may read.
    """

    def __init__(self, folder: Path | str, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"Checkpoints.keep is {keep}: expected at least 1")
        self._folder = Path(folder)
        self._keep = keep
        self._refused: set[Path] = set()

    def save(self, tree: dict[str, Any], epoch: int, step: int) -> Path:
        """Write the state as one atomic unit and return its folder, after all is on the disk.

        A checkpoint of the same (epoch, step) is replaced. Raises ValueError, before anything is
        written, naming the leaf that is no array and no JSON scalar; OSError where the disk does
        not take it, and then nothing is left behind.
        """
        for name, value in (("epoch", epoch), ("step", step)):
            if type(value) is not int or value < 0:
                raise ValueError(f"Checkpoints.save {name} is {value!r}: expected an integer >= 0")
        document, arrays = flatten(tree)
        self._make_folder()
        self._remove_unfinished()
        target = self._folder / f"epoch-{epoch:06d}.step-{step:012d}"
        saving = self._folder / f".saving-{target.name}"
        try:
            saving.mkdir()
            files = {
                _STATE: _write(saving / _STATE, pack(arrays, {})),
                _TREE: _write(saving / _TREE, [document.encode()]),
            }
            content = {"format": _FORMAT, "epoch": epoch, "step": step, "files": files}
            _write(saving / _MANIFEST, [json.dumps(content, separators=(",", ":")).encode()])
            _fsync_folder(saving)
            if target.exists():
                self._set_aside(target)
            os.rename(saving, target)
        except BaseException:
            shutil.rmtree(saving, ignore_errors=True)
            raise
        _fsync_folder(self._folder)
        self._refused.discard(target)
        self._set_old_aside()
        self._remove_unfinished()
        return target

    def newest(self) -> Checkpoint | None:
        """The last whole checkpoint, or None. One that is torn or changed is logged and refused,
        and the one before is used."""
        for epoch, step, path in reversed(self._named()):
            try:
                tree = _read(path, epoch, step)
            except _NOT_WHOLE as error:
                self._refused.add(path)
                _log.warning("checkpoint %s refused: %s", path, error)
                continue
            return Checkpoint(tree, epoch, step, path)
        return None

    def last_epoch(self) -> int:
        """The highest epoch that ever saved here, whole or not; 0 where none did."""
        return max((epoch for epoch, _, _ in self._named()), default=0)

    def _named(self) -> list[tuple[int, int, Path]]:
        if not self._folder.is_dir():
            return []
        found = []
        for path in self._folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match:
                found.append((int(match[1]), int(match[2]), path))
        return sorted(found)

    def _make_folder(self) -> None:
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            _fsync_folder(self._folder.parent)

    def _remove_unfinished(self) -> None:
        for path in sorted(self._folder.iterdir()):
            if _UNFINISHED.fullmatch(path.name):
                shutil.rmtree(path)

    def _set_old_aside(self) -> None:
        whole = 0
        for _, _, path in reversed(self._named()):
            if whole == self._keep:
                self._set_aside(path)
            elif path not in self._refused and _complete(path):
                whole += 1

    def _set_aside(self, path: Path) -> None:
        os.rename(path, self._folder / f".removing-{path.name}")


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


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / _MANIFEST).read_text())
    if content["files"].keys() != {_STATE, _TREE}:
        raise ValueError(f"{_MANIFEST} names other files")
    return content


def _complete(path: Path) -> bool:
    """Whether every file is there in its size: enough to count, not to load."""
    try:
        files = _manifest(path)["files"]
        return all((path / name).stat().st_size == file["size"] for name, file in files.items())
    except _NOT_WHOLE:
        return False


def _read(path: Path, epoch: int, step: int) -> dict[str, Any]:
    content = _manifest(path)
    found = (content["format"], content["epoch"], content["step"])
    if found != (_FORMAT, epoch, step):
        raise ValueError(f"{_MANIFEST} says format, epoch, step {found}")
    state = _verified(path / _STATE, content["files"][_STATE])
    document = _verified(path / _TREE, content["files"][_TREE])
    arrays, _ = unpack(state)
    return unflatten(document.decode(), arrays)


def _verified(path: Path, expected: dict[str, Any]) -> bytearray:
    size = path.stat().st_size
    if size != expected["size"]:
        raise ValueError(f"{path.name} has {size} bytes, expected {expected['size']}")
    data = bytearray(size)
    with open(path, "rb") as file:
        read = file.readinto(data)
    digest = hashlib.sha256(data).hexdigest()
    if read != size or digest != expected["sha256"]:
        raise ValueError(f"{path.name} has SHA-256 {digest}, expected {expected['sha256']}")
    return data
