"""Checkpoints: all that the learner needs to go on as if nothing had happened, as one folder each.

`start` writes one in a thread, from a state that nobody changes any more: learning goes on. A
crash after each of its steps leaves, at the next start:

1. removes what an earlier crash left unfinished: nothing new
2. makes `.saving-<name>`: an unfinished folder, which nobody reads
3. writes and fsyncs `state.safetensors`, then `tree.json` there: the same
4. writes and fsyncs `manifest.json` there, with size and SHA-256 of each file: the same
5. fsyncs the folder: the same
6. renames it to `<name>` (one of the same name is set aside first, as `.removing-<name>`): the
   new checkpoint, or, between the two or if the machine went down too, the one before
7. fsyncs the parent: the new checkpoint
8. removes what was set aside, and the older ones that neither are the last `keep` nor are built
   on by these, each renamed in the same way first: the new checkpoint, and maybe some more

So at every moment the newest whole folder is a state that the learner was in. Its tables are what
changed since the one before; a chain of those is written anew as a whole when it has come to more
bytes than the whole had, or to `MOST_LINKS`, so that the cost goes with what changes, and reading
one with the table. See infra/decisions/0011-checkpoints.md.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streaming.checkpoint_files import (
    NOT_WHOLE,
    chain,
    fsync_folder,
    laid_out,
    put_together,
    read,
    size_of,
    write,
)
from streaming.failpoint import failpoint

MOST_LINKS = 16
_NAME = re.compile(r"epoch-(\d{6,})\.step-(\d{12,})")
_UNFINISHED = re.compile(r"\.(?:saving|removing)-" + _NAME.pattern)
_BEGUN = re.compile(r"begun-(\d{6,})\.json")
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

    Those of the steps in `held`, and those that someone has asked for (`hold`), stay, besides the
    last `keep`.

    Only the learner that owns the folder may `begin`, `start` and `save`; anyone may read. One that
    lost it without knowing does no harm: what it writes after `begin` of a later epoch counts for
    nothing, and it removes nothing of that epoch.
    """

    def __init__(self, folder: Path | str, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"Checkpoints.keep is {keep}: expected at least 1")
        self._folder = Path(folder)
        self._keep = keep
        self.refused: set[Path] = set()
        self.held: set[int] = set()
        self._base: Path | None = None
        self._writer = ThreadPoolExecutor(1, "freshet-checkpoint")
        self._writing: Future[Path] | None = None

    def begin(self, epoch: int) -> None:
        """Says on the disk, in a small file that stays, that this epoch goes on from what `newest`
        gave last: what an earlier one adds after that is refused."""
        self._make_folder()
        base = None if self._base is None else self._base.name
        part = self._folder / f".begun-{epoch:06d}.part"
        with open(part, "w") as file:
            file.write(json.dumps({"from": base}))
            file.flush()
            os.fsync(file.fileno())
        os.rename(part, self._folder / f"begun-{epoch:06d}.json")
        fsync_folder(self._folder)
        failpoint("checkpoint.begun")

    @property
    def from_scratch(self) -> bool:
        """Whether the next one must hold its tables whole: there is nothing that it could build on,
        or the last one was not written."""
        return self._base is None

    @property
    def busy(self) -> bool:
        """Whether one is being written, or was and is not settled."""
        return self._writing is not None

    def start(self, tree: dict[str, Any], epoch: int, step: int, shorten: bool = True) -> None:
        """Begins to write the state as one atomic unit. Nobody may change it from now on, and the
        last one must be settled. `shorten`: a chain that is long enough is written as a whole.

        A checkpoint of the same (epoch, step) is replaced.
        """
        for name, value in (("epoch", epoch), ("step", step)):
            if type(value) is not int or value < 0:
                raise ValueError(f"Checkpoints.save {name} is {value!r}: expected an integer >= 0")
        assert self._writing is None, "the last checkpoint is not settled"
        self._writing = self._writer.submit(self._write, tree, epoch, step, self._base, shorten)
        failpoint("checkpoint.copied")

    def settle(self, wait: bool = True) -> Path | None:
        """The folder of the one that was started, once all of it is on the disk; None while it is
        not.

        Raises ValueError, and nothing is written, naming the leaf that is no array and no JSON
        scalar; OSError where the disk does not take it, and then nothing is left behind and the
        next one has to hold all (`from_scratch`).
        """
        if self._writing is None or not (wait or self._writing.done()):
            return None
        writing, self._writing, self._base = self._writing, None, None
        self._base = writing.result()
        return self._base

    def save(self, tree: dict[str, Any], epoch: int, step: int) -> Path:
        """`start`, and the folder when it is settled."""
        self.start(tree, epoch, step)
        path = self.settle()
        assert path is not None
        return path

    def newest(self) -> Checkpoint | None:
        """The last whole checkpoint, or None. One that is torn, changed or of another format, or
        builds on such a one, or was added by an epoch whose time was over, is logged and refused,
        and the one before is used; the next one builds on it."""
        self._base = None
        for epoch, step, path in reversed(self._named()):
            try:
                self._check_time(epoch, step)
                tree = read(path)
            except NOT_WHOLE as error:
                self.refused.add(path)
                _log.warning("checkpoint %s refused: %s", path, error)
                continue
            self._base = path
            return Checkpoint(tree, epoch, step, path)
        return None

    def find(self, step: int) -> Checkpoint | None:
        """The whole checkpoint of that very step, if there is one."""
        for epoch, there, path in reversed(self._named()):
            if there == step:
                with suppress(*NOT_WHOLE):
                    self._check_time(epoch, step)
                    return Checkpoint(read(path), epoch, step, path)
        return None

    def found(self) -> list[tuple[int, int, Path]]:
        """(epoch, step, folder) of those that may be whole, ascending."""
        return [one for one in self._named() if one[2] not in self.refused]

    def steps(self) -> list[int]:
        return sorted({step for _, step, _ in self.found()})

    def hold(self, step: int) -> bool:
        """Asks whoever writes here to keep the checkpoint of that step, by a small file that stays;
        False where it is gone."""
        (self._folder / f"held-{step:012d}").touch()
        return step in self.steps()

    def _asked_to_stay(self) -> set[int]:
        return {
            int(path.name.removeprefix("held-"))
            for path in self._folder.glob("held-*")
            if path.name.removeprefix("held-").isdecimal()
        }

    def last_epoch(self) -> int:
        """The highest epoch that ever began or saved here, whole or not; 0 where none did."""
        named = [epoch for epoch, _, _ in self._named()]
        return max([*named, *(epoch for epoch, _ in self._begun())], default=0)

    def _owned(self) -> None:
        """Raises where this learner does not own the folder any more; asked before it renames."""

    def _write(
        self, tree: dict[str, Any], epoch: int, step: int, base: Path | None, shorten: bool
    ) -> Path:
        target = self._folder / f"epoch-{epoch:06d}.step-{step:012d}"
        saving = self._folder / f".saving-{target.name}"
        if base is not None and (target == base or (shorten and _long(chain(base)))):
            tree, base = put_together(read(base), tree), None
        parts = laid_out(tree)
        if all(table["whole"] for table in parts.tables):
            base = None
        self._make_folder()
        self._remove_unfinished(epoch)
        try:
            saving.mkdir()
            failpoint("checkpoint.made")
            write(saving, parts, epoch, step, base)
            self._owned()
            if target.exists():
                self._set_aside(target)
            os.rename(saving, target)
        except BaseException:
            shutil.rmtree(saving, ignore_errors=True)
            raise
        failpoint("checkpoint.renamed")
        fsync_folder(self._folder)
        self.refused.discard(target)
        self._set_old_aside()
        failpoint("checkpoint.removing")
        self._remove_unfinished(epoch)
        return target

    def _named(self) -> list[tuple[int, int, Path]]:
        if not self._folder.is_dir():
            return []
        found = []
        for path in self._folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match:
                found.append((int(match[1]), int(match[2]), path))
        return sorted(found)

    def _begun(self) -> list[tuple[int, Path]]:
        if not self._folder.is_dir():
            return []
        matches = ((_BEGUN.fullmatch(path.name), path) for path in self._folder.iterdir())
        return sorted((int(match[1]), path) for match, path in matches if match)

    def _check_time(self, epoch: int, step: int) -> None:
        """Raises ValueError for one that was added after a later epoch had begun."""
        for began, path in reversed(self._begun()):
            if epoch >= began:
                return
            match = _NAME.fullmatch(json.loads(path.read_text())["from"] or "")
            if match is None or (epoch, step) > (int(match[1]), int(match[2])):
                raise ValueError(f"it was written after epoch {began} had begun without it")

    def _make_folder(self) -> None:
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            fsync_folder(self._folder.parent)

    def _remove_unfinished(self, epoch: int) -> None:
        for path in sorted(self._folder.iterdir()):
            match = _UNFINISHED.fullmatch(path.name)
            if match and int(match[1]) <= epoch:
                shutil.rmtree(path)

    def _set_old_aside(self) -> None:
        whole, needed = 0, set[Path]()
        held = self.held | self._asked_to_stay()
        for epoch, step, path in reversed(self._named()):
            if whole >= self._keep and step not in held:
                if path not in needed:
                    self._set_aside(path)
            elif path not in self.refused:
                with suppress(*NOT_WHOLE):
                    self._check_time(epoch, step)
                    needed.update(chain(path))
                    whole += 1

    def _set_aside(self, path: Path) -> None:
        os.rename(path, self._folder / f".removing-{path.name}")


def _long(links: list[Path]) -> bool:
    """Whether a chain, the whole one last, has become longer than it is worth."""
    whole = links.pop()
    return len(links) + 1 >= MOST_LINKS or sum(map(size_of, links)) > size_of(whole)
