"""What only the holder of the lease may do: publish, and keep checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streaming.checkpoint import Checkpoints
from streaming.eventlog import Position
from streaming.lease import Lease
from streaming.redis_registry import RedisRegistry
from streaming.registry import Published, RegistryUnavailable

ANSWER_S = 1.0


class LeasedRegistry(RedisRegistry):
    """The registry of the run `live`, for the holder of `lease`.

    While Redis is known to be away a publication fails at once, so that learning does not wait
    for it; the lease's thread finds out when it is back.
    """

    def __init__(self, url: str, app: str, lease: Lease) -> None:
        super().__init__(url, app, "live", timeout_s=ANSWER_S)
        self._lease = lease

    def publish(self, data: bytes, version: int, epoch: int, meta: Mapping[str, Any]) -> Published:
        """As the registry's; raises LeaseLost where the lease is."""
        self._lease.check()
        if not self._lease.answering:
            raise RegistryUnavailable("redis does not answer; the next version will be tried")
        try:
            return super().publish(data, version, epoch, meta)
        except RegistryUnavailable:
            self._lease.away()
            raise


class LeasedCheckpoints(Checkpoints):
    """Checkpoints of the holder of `lease`, with what `more` gives added to each, as `live`.

    After each, `commit` is told its position.
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

    def save(self, tree: dict[str, Any], epoch: int, step: int) -> Path:
        """As `Checkpoints.save`; raises LeaseLost where the lease is."""
        self._lease.check()
        path = super().save({**tree, "live": self._more()}, epoch, step)
        self._commit({(topic, p): offset for topic, p, offset in tree["position"]})
        return path
