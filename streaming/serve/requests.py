"""Requests from outside: of bounded size and the schema's types, or a problem naming the field."""

from __future__ import annotations

import asyncio
import math
import re
import zlib
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import ClientDisconnect, Request

from features.events import Id, numbers_of
from model.schema import Field, Schema, nearest
from streaming.serve.problems import Problem

MAX_BODY_BYTES = 1 << 19
MAX_CANDIDATES = 2_000
MAX_K = 200
MAX_DENSE = 3e38
LEAST_WEIGHT = 1e-30
MAX_NAME, MAX_SAID = 64, 500
"""Characters of a client's own words in an answer: of a name, and in all."""
BODY_S = 4.0

_AT = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>\$[A-Za-z0-9_.\[\]]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)


class FeedbackBody(msgspec.Struct, forbid_unknown_fields=True):
    """`item` is asked for where the application has items; `id`, to make a retry harmless."""

    impression: Id
    kind: str
    user: Id
    value: float = 1.0
    item: Id | UnsetType = UNSET
    id: Id | UnsetType = UNSET


class Requests:
    """The bodies that one schema allows."""

    def __init__(self, schema: Schema) -> None:
        types: dict[str, Any] = {"id": Id, "ids": Annotated[list[Id], Meta(max_length=1000)]}
        self.others = [f for f in schema.fields if f.name not in (schema.user, schema.item)]
        of = {f.name: numbers_of(f) if f.shape else types.get(f.kind, float) for f in self.others}
        lists = {n: Annotated[list[t], Meta(max_length=MAX_CANDIDATES)] for n, t in of.items()}  # type: ignore[valid-type]
        self.context_type = _optional("Context", of)
        self.lists_type = _optional("CandidateFields", lists)
        self.goals = [t.name for t in schema.tasks if t.kind != "multiclass"]
        self.weights_type = _optional("Weights", dict.fromkeys(self.goals, float))
        self.rank_type: Any = msgspec.defstruct(
            "Rank",
            [
                ("user", Id),
                ("candidates", Annotated[list[Id], Meta(min_length=1, max_length=MAX_CANDIDATES)]),
                ("context", self.context_type, msgspec.field(default_factory=self.context_type)),
                (
                    "candidate_fields",
                    self.lists_type,
                    msgspec.field(default_factory=self.lists_type),
                ),
                ("k", Annotated[int, Meta(ge=1, le=MAX_K)], 10),
                ("weights", self.weights_type | UnsetType, UNSET),
            ],
            forbid_unknown_fields=True,
        )  # fmt: skip
        self._names = {
            "": list(self.rank_type.__struct_fields__),
            "context": list(of),
            "candidate_fields": list(of),
            "weights": self.goals,
        }
        self._rank = msgspec.json.Decoder(self.rank_type)
        self._feedback = msgspec.json.Decoder(FeedbackBody)

    def like(self, asked: Any, user: int | str) -> dict[str, Any]:
        """A request for another user with the candidates of `asked`, and nothing else of what its
        caller said: its context is blank."""
        last = msgspec.to_builtins(asked)
        blank = {f.name: _blank(f) for f in self.others if f.name in last["context"]}
        kept = {name: last[name] for name in ("candidates", "candidate_fields", "k")}
        return {**kept, "user": user, "context": blank}

    def rank(self, body: bytes) -> Any:
        """The request of a ranking; each field of the schema is in it once."""
        asked = _decode(self._rank, body, self._names)
        if len(set(asked.candidates)) < len(asked.candidates):
            raise Problem(422, "invalid", "candidates has an id twice", "#/candidates")
        for field in self.others:
            shared = getattr(asked.context, field.name)
            each = getattr(asked.candidate_fields, field.name)
            if (shared is UNSET) == (each is UNSET):
                what = "is missing" if shared is UNSET else "is given twice"
                detail = f"field {field.name!r} {what}: expected in context or in candidate_fields"
                raise Problem(422, "invalid", detail, f"#/context/{field.name}")
            if each is not UNSET and len(each) != len(asked.candidates):
                detail = f"{len(each)} values: expected one a candidate, {len(asked.candidates)}"
                raise Problem(422, "invalid", detail, f"#/candidate_fields/{field.name}")
            if field.kind == "dense" or field.shape:
                at = f"#/context/{field.name}"
                for number, value in enumerate([shared] if each is UNSET else each):
                    if not all(abs(v) <= MAX_DENSE for v in (value if field.shape else [value])):
                        value = "a value" if field.shape else value
                        if each is not UNSET:
                            at = f"#/candidate_fields/{field.name}/{number}"
                        raise Problem(422, "invalid", f"{value} is not finite in 32 bits", at)
        if asked.weights is not UNSET:
            given = [getattr(asked.weights, name) for name in self.goals]
            size = sum(abs(weight) for weight in given if weight is not UNSET)
            if not LEAST_WEIGHT <= size <= MAX_DENSE:
                detail = "weights are 0 in all, or past 32 bits: expected one of a task at least"
                raise Problem(422, "invalid", detail, "#/weights")
        return asked

    def feedback(self, body: bytes) -> FeedbackBody:
        """The feedback, but for what the codec of the log says of its kind and value."""
        names = {"": list(FeedbackBody.__struct_fields__)}
        told: FeedbackBody = _decode(self._feedback, body, names)
        if not math.isfinite(told.value):
            raise Problem(422, "invalid", f"{told.value} is not finite", "#/value")
        return told


def _blank(field: Field) -> Any:
    """A value that says nothing."""
    if field.shape:
        return [0.0] * field.numbers
    return {"id": 0, "ids": []}.get(field.kind, 0.0)


def _optional(name: str, types: dict[str, Any]) -> Any:
    fields = [(field, type | UnsetType, UNSET) for field, type in types.items()]
    return msgspec.defstruct(name, fields, forbid_unknown_fields=True)


def _decode(decoder: Any, body: bytes, names: dict[str, list[str]]) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), names) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "malformed", str(error)) from None


def _invalid(message: str, names: dict[str, list[str]]) -> Problem:
    """msgspec's complaint as a problem with a pointer and, of an unknown name, the nearest one."""
    found = _AT.fullmatch(message)
    assert found is not None
    what, path = found["what"], found["path"] or "$"
    parts = [p for p in re.split(r"[.\[\]]+", path.removeprefix("$")) if p]
    if unknown := _UNKNOWN.fullmatch(what):
        name = unknown[1][:MAX_NAME]
        what = f"there is no field {name!r}: {nearest(name, names.get('.'.join(parts), []))}"
        parts.append(name)
    elif missing := _MISSING.fullmatch(what):
        what = f"field {missing[1]!r} is missing"
        parts.append(missing[1])
    escaped = [quote(p.replace("~", "~0").replace("/", "~1"), safe="~") for p in parts]
    return Problem(422, "invalid", what[:MAX_SAID], "#" + "".join(f"/{p}" for p in escaped))


async def read_json(request: Request) -> bytes:
    """The body, which says that it is JSON, is of bounded size, and comes in time."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise Problem(415, "media-type", f"content-type is {media!r}: expected application/json")
    too_large = Problem(413, "too-large", f"expected at most {MAX_BODY_BYTES} bytes")
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said[:20]) > MAX_BODY_BYTES:
        raise too_large
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip"):
        said = f"content-encoding is {coding[:MAX_NAME]!r}: expected gzip, or none"
        raise Problem(415, "media-type", said)
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        detail = f"the body did not come within {BODY_S:g} s"
        raise Problem(408, "too-slow", detail) from None
    except ClientDisconnect:
        raise Problem(400, "malformed", "the body ended early") from None
    body = b"".join(parts)
    return _opened(body, too_large) if coding == "gzip" else body


def _opened(body: bytes, too_large: Problem) -> bytes:
    """What is in a gzip file, of which no more than is allowed is opened."""
    opener = zlib.decompressobj(wbits=31)
    try:
        opened = opener.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise Problem(400, "malformed", f"the body is no gzip file: {error}") from None
    if len(opened) > MAX_BODY_BYTES:
        raise too_large
    if not opener.eof or opener.unused_data:
        raise Problem(400, "malformed", "the body is no whole gzip file, or more than one")
    return opened
