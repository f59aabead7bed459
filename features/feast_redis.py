"""How Feast lays rows out in Redis (entity key serialization 3), so that they can be read without
its half gigabyte of imports; the contract suite holds both readings against each other.

An entity's hash is named by its key and the project; in it `murmur3(VIEW:FEATURE)` -> a `Value`.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import mmh3
import numpy as np
import redis
from redis.connection import SSLConnection, parse_url

_STRING, _INT64 = 2, 4  # feast.types.ValueType
_BYTES_VALUE = 0x0A  # field 1 of feast.types.Value, in protobuf's wire format
_SCAN = 1_000
_SHORT = [bytes([_BYTES_VALUE, max(n - 2, 0)]) for n in range(130)]


def project_name(app: str) -> str:
    """The Feast project of an application. Feast refuses a hyphen, so `_h` stands for it, and `__`
    for `_`: two applications never share a project."""
    return "freshet_" + app.replace("_", "__").replace("-", "_h")


class KeyLayout:
    """Names of the hashes of one entity, joined by one int64, in one project."""

    def __init__(self, project: str, join_key: str) -> None:
        name = join_key.encode()
        self._head = struct.pack("<III", 1, _STRING, len(name)) + name
        self._head += struct.pack("<II", _INT64, 8)
        self._tail = project.encode()

    def names(self, keys: np.ndarray) -> list[bytes]:
        """The hash's name of each key (int64 [n])."""
        raw = keys.astype("<i8").tobytes()
        head, tail = self._head, self._tail
        return [head + raw[at : at + 8] + tail for at in range(0, len(raw), 8)]

    def find(self, client: redis.Redis) -> Iterator[bytes]:
        """The names of all hashes of this entity that are there; some of them more than once."""
        head, tail = (
            re.sub(rb"[*?\[\]\\]", rb"\\\g<0>", part) for part in (self._head, self._tail)
        )
        length = len(self._head) + 8 + len(self._tail)
        for name in client.scan_iter(match=head + b"*" + tail, count=_SCAN):
            if len(name) == length:
                yield name


def field_name(view: str, feature: str) -> bytes:
    """The name of a feature's field in the hash."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def bytes_of(value: bytes | None) -> bytes:
    """What a serialized `Value` of bytes holds; `b""` of none. Raises ValueError for another."""
    if value is None:
        return b""
    if len(value) < 130 and value[:2] == _SHORT[len(value)]:  # most; the rest in general
        return value[2:]
    at, length, shift = 1, 0, 0
    while at < len(value):
        byte = value[at]
        length |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    if value[:1] != bytes([_BYTES_VALUE]) or len(value) - at != length:
        raise ValueError(f"{value[:16].hex()} is no Feast value of bytes")
    return value[at:]


def hash_fields(
    client: redis.Redis, commands: Sequence[tuple[Sequence[bytes], Sequence[bytes]]]
) -> list[list[list[bytes | None]]]:
    """Of each command, (hashes' names of one `KeyLayout`, fields), the fields of each hash; in one
    round trip.

    The commands go out as one block of bytes: a third of the time that redis-py's pipeline takes.
    Raises redis.RedisError.
    """
    pool: Any = client.connection_pool
    block = b"".join(_hmgets(names, fields) for names, fields in commands if names)
    ends = np.cumsum([0, *(len(names) for names, _ in commands)]).tolist()
    replies: list[Any] = []
    for last in (False, True):
        connection = pool.get_connection()
        try:
            connection.send_packed_command([block])
            replies = [connection.read_response(disable_decoding=True) for _ in range(ends[-1])]
            break
        except BaseException as error:
            connection.disconnect()  # replies may be on their way
            if last or not isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
                raise
        finally:
            pool.release(connection)
    return [replies[a:b] for a, b in pairwise(ends)]


def _hmgets(names: Sequence[bytes], fields: Sequence[bytes]) -> bytes:
    """One HMGET for each name, in Redis's protocol. Names of one `KeyLayout` are equally long."""
    head = b"*%d\r\n$5\r\nHMGET\r\n$%d\r\n" % (2 + len(fields), len(names[0]))
    tail = b"".join(b"\r\n$%d\r\n%s" % (len(field), field) for field in fields) + b"\r\n"
    return head + (tail + head).join(names) + tail


def connection_string(url: str, timeout_s: float) -> str:
    """A Redis URL (`redis://`, `rediss://`, `unix://`) as Feast's online store takes it.

    Raises ValueError for a URL that is none, and for an IPv6 address, which Feast can't take.
    """
    options = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, **parse_url(url)}
    path = options.pop("path", None)
    host, port = options.pop("host", "localhost"), options.pop("port", 6379)
    if ":" in host:
        raise ValueError(f"redis host is {host!r}: expected a name or an IPv4 address, for Feast")
    connection = options.pop("connection_class", None)
    if isinstance(connection, type) and issubclass(connection, SSLConnection):
        options["ssl"] = True
    if path is not None:
        options["unix_socket_path"] = path
    # As JSON, in which a comma can be written otherwise: Feast splits at commas.
    values = {name: json.dumps(value).replace(",", "\\u002c") for name, value in options.items()}
    return ",".join([f"{host}:{port}", *(f"{name}={value}" for name, value in values.items())])
