"""The version that a server scores with: the registry's newest, loaded behind its back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from model.batch import Layout
from model.schema import Schema
from model.score import Scorer
from model.snapshot import decode
from streaming.manifest import CorruptSnapshot, Manifest
from streaming.registry import Registry, RegistryUnavailable

log = logging.getLogger("freshet.serve")
WAIT_S = 0.5
CLOSE_S = 2.0


@dataclass(frozen=True)
class Loaded:
    """A version ready to score, and when that was (ms of the server's clock)."""

    scorer: Scorer
    manifest: Manifest
    at_ms: int


class Versions:
    """Waits on a registry in a thread of its own and swaps `current` by one assignment.

    A version that is corrupt, or not for this `schema` and `layout`, is counted and left alone:
    the one before goes on. `on_load` and `on_refusal` (with the reason) are called from the thread.
    """

    def __init__(
        self,
        registry: Registry,
        schema: Schema,
        layout: Layout,
        clock_ms: Callable[[], int],
        on_load: Callable[[Loaded], None],
        on_refusal: Callable[[str], None],
    ) -> None:
        self.current: Loaded | None = None
        self._registry, self._clock_ms = registry, clock_ms
        self._schema, self._layout = schema, layout
        self._on_load, self._on_refusal = on_load, on_refusal
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freshet-versions", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, which is not waited for where the registry does not answer; `current`
        stays."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        seen: tuple[int, int] | None = None
        while not self._stop.is_set():
            manifest = None
            try:
                manifest = self._registry.wait(seen, WAIT_S)
                if manifest is None:
                    continue
                self._load(manifest, self._registry.fetch(manifest))
            except RegistryUnavailable as error:
                self._refuse("unavailable", error)
                self._stop.wait(WAIT_S)
                continue
            except CorruptSnapshot as error:
                self._refuse("corrupt", error)
            except Exception as error:  # whatever it holds, a version must not end this thread
                self._refuse("unfit", error)
            if manifest is None:  # the pointer itself can't be read
                self._stop.wait(WAIT_S)
            else:
                seen = manifest.order

    def _load(self, manifest: Manifest, data: bytes) -> None:
        snapshot = decode(bytearray(data))
        if snapshot.version != manifest.version:
            raise ValueError(f"holds version {snapshot.version}, not {manifest.version}")
        scorer = Scorer(dict(snapshot.arrays), dict(snapshot.meta))
        if (scorer.schema, scorer.layout) != (self._schema, self._layout):
            raise ValueError(f"version {manifest.version} is of another schema or features")
        self.current = loaded = Loaded(scorer, manifest, self._clock_ms())
        try:
            self._on_load(loaded)
        except Exception:  # the version is served, whatever is made of that
            log.exception("version %d: what was to be done at its load failed", manifest.version)

    def _refuse(self, reason: str, error: Exception) -> None:
        log.warning("version not loaded, %s: %s", reason, error)
        self._on_refusal(reason)
