from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.arrays import pack, unpack
from model.snapshot import Snapshot, decode, encode

DTYPES = ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"]
arrays_of_any_kind = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    max_size=5,
)
SMALL = Snapshot(7, {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"b": 1, "a": [None, "é"]})


def same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert left[name].shape == right[name].shape
        assert left[name].tobytes() == right[name].tobytes()


@given(arrays_of_any_kind)
def test_arrays_and_meta_come_back_bit_for_bit(arrays):
    back = decode(encode(Snapshot(3, arrays, {"tasks": ["click"], "pi": 0.1})))
    same(arrays, back.arrays)
    assert (back.version, back.meta) == (3, {"tasks": ["click"], "pi": 0.1})


@given(arrays_of_any_kind, st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_are_those_of_the_safetensors_package(arrays, text):
    ours = b"".join(pack(arrays, {"freshet": text}))
    contiguous = {name: np.asarray(a, order="C") for name, a in arrays.items()}
    assert ours == safetensors.numpy.save(contiguous, {"freshet": text})
    same(arrays, safetensors.numpy.load(ours))


def test_order_of_insertion_does_not_change_the_bytes():
    a, b = np.ones(2, np.float32), np.zeros(3, np.int64)
    assert encode(Snapshot(1, {"a": a, "b": b}, {"x": 1, "y": {"p": 1, "q": 2}})) == encode(
        Snapshot(1, {"b": b, "a": a}, {"y": {"q": 2, "p": 1}, "x": 1})
    )


def test_a_transposed_array_is_written_as_it_reads():
    turned = np.arange(6, dtype=np.int32).reshape(2, 3).T
    back = decode(encode(Snapshot(1, {"w": turned, "every": np.arange(9)[::2]}, {})))
    np.testing.assert_array_equal(back.arrays["w"], turned)
    np.testing.assert_array_equal(back.arrays["every"], [0, 2, 4, 6, 8])


def test_decoded_arrays_are_views_that_cannot_be_written():
    data = encode(SMALL)
    row = decode(data).arrays["w"]
    assert np.shares_memory(row, np.frombuffer(data, np.uint8))
    assert not row.flags.writeable
    assert decode(bytearray(data)).arrays["w"].flags.writeable


def test_unaligned_data_is_copied_to_be_aligned():
    ours = b"".join(pack({"w": np.arange(3, dtype=np.int64)}, {}))
    shifted = memoryview(b"x" + ours)[1:]
    array = unpack(shifted)[0]["w"]
    assert array.flags.aligned
    assert array.tolist() == [0, 1, 2]


@given(st.integers(0, len(encode(SMALL)) - 1))
def test_a_cut_snapshot_is_refused(length):
    with pytest.raises(ValueError):
        decode(encode(SMALL)[:length])


@given(st.integers(0, len(encode(SMALL)) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_read_but_never_anything_else(place, change):
    data = bytearray(encode(SMALL))
    data[place] ^= change
    with contextlib.suppress(ValueError):
        decode(data)


def with_header(header: str, data: bytes = b"") -> bytes:
    raw = header.encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(dtype="U8", shape=(2,), span=(0, 2)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "at least 8"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "a header of"),
        (with_header("[" * 100_000), "not JSON"),
        (with_header("[]"), "JSON object"),
        (with_header('{"a":1,"a":1}'), "twice"),
        (with_header('{"__metadata__":{"a":1}}'), "strings"),
        (with_header('{"w":{"dtype":"U8"}}'), "expected dtype, shape"),
        (with_header(json.dumps({"w": entry("BF16")}), b"ab"), "dtype is 'BF16'"),
        (with_header(json.dumps({"w": entry(["U8"])}), b"ab"), "dtype is"),
        (with_header(json.dumps({"w": entry(shape=[-2])}), b"ab"), "shape"),
        (with_header(json.dumps({"w": entry(shape=[1] * 40, span=(0, 1))}), b"a"), "shape"),
        (with_header(json.dumps({"w": entry(shape=[True, 2])}), b"ab"), "shape"),
        (with_header(json.dumps({"w": entry(span=[0, 3])}), b"ab"), "data_offsets"),
        (with_header(json.dumps({"w": entry(shape=[1 << 62, 4])}), b"ab"), "2 bytes for shape"),
        (with_header(json.dumps({"w": entry(shape=[0, 1 << 80], span=(0, 0))})), "too large"),
        (with_header(json.dumps({"w": entry()}), b"abc"), "gap"),
        (with_header(json.dumps({"v": entry(), "w": entry()}), b"ab"), "overlap"),
        (with_header(json.dumps({"w": entry("BOOL")}), b"\x00\x02"), "neither 0 nor 1"),
    ],
)
def test_a_false_header_is_refused_by_name(data, message):
    with pytest.raises(ValueError, match=message):
        unpack(data)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "expected"),
        ({"freshet": "{"}, "not JSON"),
        ({"freshet": '{"meta":{}}'}, "meta and version"),
        ({"freshet": '{"meta":{},"version":-1}'}, "version is -1"),
        ({"freshet": '{"meta":[],"version":1}'}, "meta is not"),
    ],
)
def test_safetensors_of_others_are_not_snapshots(metadata, message):
    with pytest.raises(ValueError, match=message):
        decode(b"".join(pack({}, metadata)))


@pytest.mark.parametrize(
    ("snapshot", "message"),
    [
        (Snapshot(-1, {}, {}), "version is -1"),
        (Snapshot(1, {}, {"loss": float("nan")}), "meta is not JSON"),
        (Snapshot(1, {}, {"loss": np.float32(1)}), "meta is not JSON"),
        (Snapshot(1, {"w": np.array(["a"])}, {}), "array 'w' has dtype"),
        (Snapshot(1, {"w": np.zeros(2, ">i4")}, {}), "array 'w' has dtype >i4"),
        (Snapshot(1, {"__metadata__": np.zeros(2)}, {}), "reserves"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_by_name(snapshot, message):
    with pytest.raises(ValueError, match=message):
        encode(snapshot)
