"""A key's partition is the one Kafka's Java clients choose."""

from __future__ import annotations

import pytest

from streaming.eventlog import check_topics, murmur2, partition_of


@pytest.mark.parametrize(
    ("data", "signed"),
    [  # org.apache.kafka.common.utils.UtilsTest.testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_the_values_of_kafkas_own_test(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed % 2**32


def test_the_partition_drops_the_hashs_sign_bit() -> None:
    assert partition_of(b"21", 1000) == (-973932308 & 0x7FFFFFFF) % 1000


@pytest.mark.parametrize(
    "topics", [{"a b": 1}, {"": 1}, {"..": 1}, {"x" * 201: 1}, {"fine": 0}, {"fine": -2}]
)
def test_topics_that_kafka_would_refuse_are_refused(topics: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 "):
        check_topics(topics)
