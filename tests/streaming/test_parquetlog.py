"""What the Parquet log keeps beyond the contract: its files."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import streaming.parquetlog
from streaming.parquetlog import ROW_GROUP, ParquetLog


def filled(folder: Path, count: int) -> ParquetLog:
    log = ParquetLog(folder, {"t": 1})
    for i in range(count):
        log.append("t", b"k%d" % i, b"%d" % i, 1 + i)
    return log


def test_readers_see_only_what_was_flushed(tmp_path: Path) -> None:
    log = filled(tmp_path, 3)
    reader = log.reader()
    assert reader.read("t", 0).offsets == []
    assert log.end_position() == {("t", 0): 0}
    log.flush()
    assert reader.read("t", 0).offsets == [0, 1, 2]


def test_a_folder_opened_again_goes_on_with_its_offsets(tmp_path: Path) -> None:
    filled(tmp_path, 3).close()
    again = filled(tmp_path, 2)
    again.close()
    assert again.end_position() == {("t", 0): 5}
    reader = ParquetLog(tmp_path, {"t": 1}).reader()
    chunks = [reader.read("t", 0) for _ in range(3)]
    assert [c.offsets for c in chunks] == [[0, 1, 2], [3, 4], []]
    assert [v for c in chunks for v in c.values] == [b"0", b"1", b"2", b"0", b"1"]


def test_a_part_holds_its_columns_and_is_compressed(tmp_path: Path) -> None:
    filled(tmp_path, 3).close()
    filled(tmp_path, 1).close()
    parts = sorted(tmp_path.glob("t/*/*"))
    assert [part.name for part in parts] == [f"{0:020d}.parquet", f"{3:020d}.parquet"]
    assert pq.read_table(parts[0]).to_pydict() == {
        "offset": [0, 1, 2],
        "timestamp_ms": [1, 2, 3],
        "key": [b"k0", b"k1", b"k2"],
        "value": [b"0", b"1", b"2"],
    }
    assert pq.read_metadata(parts[0]).row_group(0).column(3).compression == "ZSTD"


def test_a_part_that_was_never_finished_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(tmp_path, 2)
    log.flush()
    log.append("t", b"k", b"lost", 9)

    def die(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            log.flush()
    again = ParquetLog(tmp_path, {"t": 1})
    assert again.end_position() == {("t", 0): 2}
    again.append("t", b"k", b"again", 9)
    again.flush()
    assert again.reader({("t", 0): 1}).read("t", 0).values == [b"1"]
    assert again.reader({("t", 0): 2}).read("t", 0).values == [b"again"]


def test_a_position_inside_any_row_group_is_found(tmp_path: Path) -> None:
    count = 2 * ROW_GROUP + 10
    log = filled(tmp_path, count)
    log.flush()
    for start in (0, 1, ROW_GROUP - 1, ROW_GROUP, 2 * ROW_GROUP + 9):
        chunk = log.reader({("t", 0): start}).read("t", 0, max_records=2)
        assert chunk.offsets == [i for i in (start, start + 1) if i < count][: len(chunk.offsets)]
        assert chunk.values == [b"%d" % i for i in chunk.offsets]
        assert chunk.offsets[0] == start


def test_a_large_buffer_is_written_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming.parquetlog, "PART_BYTES", 10_000)
    log = filled(tmp_path, 1000)
    assert 800 < log.end_position()["t", 0] < 1000
    log.flush()
    reader, offsets = log.reader(), []
    while chunk := reader.read("t", 0).offsets:
        offsets += chunk
    assert offsets == list(range(1000))


def test_another_number_of_partitions_is_refused(tmp_path: Path) -> None:
    ParquetLog(tmp_path, {"t": 2})
    with pytest.raises(ValueError, match=r"topics\['t'\]: 4 partitions; .* has 2"):
        ParquetLog(tmp_path, {"t": 4})
