"""The feature store of production: Feast, online in Redis, offline in Parquet read by DuckDB.

Writing and reading take a round trip or two on the layout of Feast's own online store, which reads
the same. Feast itself is imported when first needed: by `apply`, `write`, and what goes through its
API; reading needs no import of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from features.feast_redis import (
    KeyLayout,
    bytes_of,
    connection_string,
    field_name,
    hash_fields,
    project_name,
)
from features.offline_parts import OfflineParts
from features.rows import row_layouts
from features.store import Found, Rows, StoreUnavailable, advancing, known_kind
from features.windows import Windows

_AT_ONCE = 1_000
# KEYS: the row's hash  ARGV: its field `as_of`, what that held, then fields and values
_WRITE = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 1
"""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FeastStore:
    """Rows of application `app` on the Redis at `url`; Feast's registry and the Parquet parts lie
    in `folder`, the parts for `keep_days` (None: for ever).

    Every method raises StoreUnavailable where Redis does not answer within `timeout_s` a try.
    """

    def __init__(
        self,
        url: str,
        app: str,
        folder: Path | str,
        windows: Windows,
        timeout_s: float = 2.0,
        tries: int = 3,
        keep_days: float | None = None,
    ) -> None:
        self.project = project_name(app)
        self.folder = Path(folder).resolve()
        self._layouts = row_layouts(windows)
        self._connection_string = connection_string(url, timeout_s)
        self._redis: Any = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), tries - 1),
        )
        self._names = {k: KeyLayout(self.project, f"{k}_key") for k in self._layouts}
        self._fields = {k: (field_name(k, "row"), field_name(k, "as_of")) for k in self._layouts}
        self._parts = OfflineParts(self.folder / "offline", self._layouts, keep_days)
        self._feast: Any = None

    # -- online --------------------------------------------------------------------------------

    def write(self, kind: str, rows: Rows) -> int:
        known_kind(kind, self._layouts)
        self.apply()
        fields = self._fields[kind][1:]
        with self._talking():
            stored = hash_fields(self._redis, [(self._names[kind].names(rows.keys), fields)])[0]
            fresh = advancing(rows, [bytes_of(row[0]) for row in stored])
            if len(fresh):
                self._write_online(kind, rows.take(fresh), [stored[i][0] or b"" for i in fresh])
        self._parts.add(kind, rows)  # all: a skipped row's part may have been lost
        return len(fresh)

    def _write_online(self, kind: str, rows: Rows, before: list[bytes]) -> None:
        """As Feast's own online store does, but each row only where its `as_of` still is as it was
        `before`: a worker that was frozen, and is the row's writer no more, must not undo."""
        from feast.protos.feast.types.Value_pb2 import Value
        from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]

        layout, as_of = self._layouts[kind], self._fields[kind][1]
        names = [field_name(kind, name) for name in (*layout.counts, "row", "as_of")]
        time = Timestamp()
        time.FromDatetime(_EPOCH + timedelta(milliseconds=rows.time_ms))
        stamp: list[bytes] = [f"_ts:{kind}".encode(), time.SerializeToString()]
        counts = rows.counts.tolist()
        with self._redis.pipeline(transaction=False) as pipe:
            for i, key in enumerate(self._names[kind].names(rows.keys)):
                values = [Value(int64_val=n) for n in counts[i]]
                values += [Value(bytes_val=rows.values[i]), Value(bytes_val=rows.as_of[i])]
                pairs = zip(names, (v.SerializeToString() for v in values), strict=True)
                pipe.eval(_WRITE, 1, key, as_of, before[i], *stamp, *chain(*pairs))
            written = pipe.execute()
        if not all(written):
            raise StoreUnavailable(f"{kind} rows changed while they were written: another writer")

    def read(self, wanted: Mapping[str, np.ndarray]) -> dict[str, Found]:
        for kind in wanted:
            known_kind(kind, self._layouts)
        commands = [(self._names[k].names(keys), self._fields[k]) for k, keys in wanted.items()]
        with self._talking():
            answers = hash_fields(self._redis, commands)
        return {
            kind: Found(keys, [bytes_of(row) for row, _ in rows], [bytes_of(at) for _, at in rows])
            for (kind, keys), rows in zip(wanted.items(), answers, strict=True)
        }

    def clear(self) -> None:
        """Delete all rows of the application online; what is offline stays."""
        with self._talking():
            for names in self._names.values():
                found = names.find(self._redis)
                while some := list(islice(found, _AT_ONCE)):
                    self._redis.unlink(*some)

    def read_by_feast(self, wanted: Mapping[str, np.ndarray]) -> dict[str, Found]:
        """`read`, by Feast's own `get_online_features`: ten times slower, the same rows."""
        found = {}
        for kind, keys in wanted.items():
            known_kind(kind, self._layouts)
            with self._talking():
                answer = (
                    self.apply()
                    .get_online_features(
                        features=[f"{kind}:row", f"{kind}:as_of"],
                        entity_rows=[{f"{kind}_key": key} for key in keys.tolist()],
                    )
                    .to_dict()
                )
            columns = [[value or b"" for value in answer[name]] for name in ("row", "as_of")]
            found[kind] = Found(keys, *columns)
        return found

    # -- offline and Feast itself --------------------------------------------------------------

    def flush(self) -> None:
        """Write what was written online as Parquet parts. Call it before acknowledging the source:
        then the parts miss nothing, and hold again what was delivered again."""
        self._parts.flush()

    def apply(self) -> Any:
        """Feast's own `FeatureStore`, which knows the application's entities, views and service:
        they are written to its registry where they are not there yet, or not with this layout."""
        if self._feast is None:
            self._feast = self._applied()
        return self._feast

    def _applied(self) -> Any:
        from feast import FeatureStore, RepoConfig
        from feast.infra.offline_stores.duckdb import DuckDBOfflineStoreConfig
        from feast.infra.online_stores.redis import RedisOnlineStoreConfig

        from features.views import applied, objects

        self._parts.prepare()
        config = RepoConfig(
            project=self.project,
            provider="local",
            registry=str(self.folder / "registry.db"),
            online_store=RedisOnlineStoreConfig(
                connection_string=self._connection_string,
                skip_dedup=True,  # `as_of` decides, not event time
            ),
            offline_store=DuckDBOfflineStoreConfig(),
            entity_key_serialization_version=3,
        )
        feast = FeatureStore(config=config)
        layouts = list(self._layouts.values())
        if not applied(feast, layouts):
            feast.apply(objects(self.project, layouts, self._parts.folder))
        return feast

    def close(self) -> None:
        self.flush()
        self._redis.close()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            options = self._redis.connection_pool.connection_kwargs
            where = options.get("path") or f"{options.get('host')}:{options.get('port')}"
            text = f"feature store {where}: {type(error).__name__}: {error}"
            raise StoreUnavailable(text) from error
