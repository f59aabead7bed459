"""The version that a server scores with: the registry's newest, loaded behind its back."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from model.batch import Layout
from model.schema import Schema
from model.score import Scorer
from streaming.manifest import CorruptSnapshot, Manifest
from streaming.registry import READING_S, NoSuchVersion, Order, Registry, RegistryUnavailable
from streaming.serve.shares import in_share
from streaming.serve.sides import Sides

log = logging.getLogger("freshet.serve")
WAIT_S = 0.5
CLOSE_S = 2.0
LOOK_S = 2.0
"""Between two looks at what is held."""
RETRY_S = 10.0
"""Between two tries of a version that was refused."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A version ready to score, and when that was (ms of the server's clock)."""

    scorer: Scorer
    manifest: Manifest
    at_ms: int


class Canary(NamedTuple):
    """A version that a share of users is served, by the hash of who they are."""

    loaded: Loaded
    share: float

    @property
    def version(self) -> int:
        return self.loaded.manifest.version


class Versions:
    """Waits on a registry in a thread of its own and swaps `current` by one assignment.

    `seen` is the order of the last pointer that it followed, or refused: it follows none below.
    `held` are the versions that the registry says are not to be served, and why.
    Whoever holds a `Loaded` scores with it, and keeps its memory from the next version.
    A version that is corrupt, or not for this `schema` and `layout`, is counted and left alone:
    the one before goes on. `follow`, where given, says at each look which registry it is, that of
    another learner from some time on. `on_load` and `on_refusal` (with the reason)
    are called from the thread.
    """

    def __init__(
        self,
        registry: Registry,
        schema: Schema,
        layout: Layout,
        clock_ms: Callable[[], int],
        on_load: Callable[[Loaded], None],
        on_refusal: Callable[[str], None],
        follow: Callable[[], Registry] | None = None,
    ) -> None:
        self.current: Loaded | None = None
        self._registry, self._clock_ms = registry, clock_ms
        self._schema, self._layout = schema, layout
        self._on_load, self._on_refusal = on_load, on_refusal
        self._sides, self._follow = Sides(registry), follow
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._away_since: float | None = None
        self._said = self._tried = self._looked = 0.0
        self.held: dict[int, str] = {}
        self.canary: Canary | None = None
        self._canary_sides: Sides | None = None
        self._unfit_canary: int | None = None
        self._refused = False
        self.seen: Order | None = None
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

    @property
    def away_s(self) -> float:
        """How long the registry has not answered; 0 while it does."""
        return 0.0 if self._away_since is None else time.monotonic() - self._away_since

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self.poll(WAIT_S):
                self._stop.wait(WAIT_S)

    def poll(self, wait_s: float) -> bool:
        """Waits so long for the pointer to rise, and loads what it names; False where the registry
        gave no pointer to look at."""
        pointer = None
        try:
            if self._follow is not None:
                self._turn_to(self._follow())
            pointer = self._registry.wait(self.seen, wait_s)
            again = self._refused and time.monotonic() - self._tried > RETRY_S
            self._answers()
            if pointer is None and again:  # its bytes may have come back, or a full version
                pointer = self._registry.pointer()
            if pointer is None or (self.seen is not None and pointer.order < self.seen):
                self._try_out()
                return True
            self._tried, self._refused = time.monotonic(), True
            self._load(pointer.manifest)
            self._refused = False
        except RegistryUnavailable as error:
            self._away(error)
            return False
        except (CorruptSnapshot, NoSuchVersion) as error:
            self._refuse("corrupt", error)
        except Exception as error:  # whatever it holds, a version must not end this thread
            self._refuse("unfit", error)
        if pointer is not None:
            self.seen = pointer.order
        return pointer is not None

    def _turn_to(self, registry: Registry) -> None:
        """Follows the versions of a registry; the version that is served stays until one is loaded
        from there."""
        if registry is not self._registry:
            self._registry, self._sides = registry, Sides(registry)
            self.canary = self._canary_sides = None
            self.seen, self._refused, self._looked = None, False, 0.0

    def _away(self, error: Exception) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.warning("the registry does not answer, going on with what there is: %s", error)
        self._on_refusal("unavailable")

    def _answers(self) -> None:
        """Says that it does, and once in a while which version is read, so that it stays; looks
        which are held."""
        if self._away_since is not None:
            log.warning("the registry answers again, %.1f s after", self.away_s)
            self._away_since = None
        if time.monotonic() - self._looked > LOOK_S:
            self._looked, self.held = time.monotonic(), self._registry.held()
        current = self.current
        if current is not None and time.monotonic() - self._said > READING_S / 4:
            self._read(current.manifest)

    def of(self, user: int | str) -> Loaded | None:
        """The version that this user is served: the canary's, of its share of users."""
        canary = self.canary
        if canary is not None and in_share(user, canary.share, "canary"):
            return canary.loaded
        return self.current

    def _try_out(self) -> None:
        """Looks whether a share of users is to have another version, and loads it. One that can't
        be loaded is nothing that the others depend on."""
        trial, canary, current = self._registry.trial(), self.canary, self.current
        version = None if trial is None else trial.manifest.version
        if trial is None or (current and trial.manifest.order <= current.manifest.order):
            self.canary = None  # taken back, or served to all, or what all have is later
            return
        if canary is not None and canary.version == version:
            self.canary = Canary(canary.loaded, trial.share)
        elif version != self._unfit_canary:
            self.canary, self._unfit_canary = None, version
            try:
                self.canary = Canary(self._canary_loaded(trial.manifest), trial.share)
            except RegistryUnavailable:  # it may yet be fit
                self._unfit_canary = None
                raise
            except (CorruptSnapshot, NoSuchVersion) as error:
                self._refuse("corrupt", error)
            except ValueError as error:
                self._refuse("unfit", error)
            else:
                self._unfit_canary = None

    def _canary_loaded(self, manifest: Manifest) -> Loaded:
        if self._canary_sides is None:
            self._canary_sides = Sides(self._registry)
        self._read(manifest, f"{self._name}-canary")
        side, _ = self._canary_sides.to(manifest.version)
        if (side.scorer.schema, side.scorer.layout) != (self._schema, self._layout):
            raise ValueError(f"version {manifest.version} is of another schema or features")
        loaded = Loaded(side.scorer, manifest, self._clock_ms())
        self._canary_sides.use(side, loaded)
        return loaded

    def _read(self, manifest: Manifest, name: str = "") -> None:
        self._said = time.monotonic()
        try:
            self._registry.reading(name or self._name, manifest.version)
        except RegistryUnavailable as error:  # which may be read-only
            log.debug("not said which version is read: %s", error)

    def _load(self, manifest: Manifest) -> None:
        self._read(manifest)
        side, _ = self._sides.to(manifest.version)
        scorer = side.scorer
        if (scorer.schema, scorer.layout) != (self._schema, self._layout):
            raise ValueError(f"version {manifest.version} is of another schema or features")
        loaded = Loaded(scorer, manifest, self._clock_ms())
        self._sides.use(side, loaded)
        self.current = loaded
        try:
            self._on_load(loaded)
        except Exception:  # the version is served, whatever is made of that
            log.exception("version %d: what was to be done at its load failed", manifest.version)

    def _refuse(self, reason: str, error: Exception) -> None:
        log.warning("version not loaded, %s: %s", reason, error)
        self._on_refusal(reason)
