"""What only the holder of the lease may do: publish, and keep checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streaming.checkpoint import Checkpoints
from streaming.eventlog import Position
from streaming.failpoint import failpoint
from streaming.lease import Lease
from streaming.redis_registry import RedisRegistry
from streaming.registry import Published, RegistryUnavailable
from streaming.shadow import LIVE

ANSWER_S = 1.0


class LeasedRegistry(RedisRegistry):
    """The registry of a run, for the holder of its `lease`.

    While Redis is known to be away a publication fails at once, so that learning does not wait
    for it; the lease's thread finds out when it is back.
    """

    def __init__(self, url: str, app: str, lease: Lease, run: str = LIVE) -> None:
        super().__init__(url, app, run, timeout_s=ANSWER_S)
        self._lease, self.holder = lease, lease.holder

    def publish(
        self, data: bytes, version: int, epoch: int, meta: Mapping[str, Any], **how: Any
    ) -> Published:
        """As the registry's; raises LeaseLost where the lease is."""
        self._lease.check()
        if not self._lease.answering:
            raise RegistryUnavailable("redis does not answer; the next version will be tried")
        try:
            return super().publish(data, version, epoch, meta, **how)
        except RegistryUnavailable:
            self._lease.away()
            raise


class LeasedCheckpoints(Checkpoints):
    """Checkpoints of the holder of `lease`, with what `more` gives added to each, as `live`.

    `commit` is told the position of each that is on the disk.
    """

    def __init__(
        self,
        folder: Path,
        lease: Lease,
        more: Callable[[], dict[str, Any]],
        commit: Callable[[Position], None],
    ) -> None:
        super().__init__(folder)
        self._lease, self._more, self._commit = lease, more, commit

    def start(self, tree: dict[str, Any], epoch: int, step: int, shorten: bool = True) -> None:
        """As `Checkpoints.start`; raises LeaseLost where the lease is."""
        self._lease.check()
        self._position = {(topic, p): offset for topic, p, offset in tree["position"]}
        super().start({**tree, "live": self._more()}, epoch, step, shorten)

    def settle(self, wait: bool = True) -> Path | None:
        """As `Checkpoints.settle`, which raises LeaseLost too; after it, the commit."""
        path = super().settle(wait)
        if path is not None:
            failpoint("checkpoint.kept")
            self._commit(self._position)
            failpoint("checkpoint.committed")
        return path

    def _owned(self) -> None:
        self._lease.check()
