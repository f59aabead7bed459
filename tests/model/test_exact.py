"""Which settings keep the state hash: as infra/run.md, "What a state hash holds for", says."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from model.structure import NetworkConfig
from model.train import Trainer


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def learnt(small: SimpleNamespace, model: Trainer, examples: int = 64) -> str:
    for seed in range(8):
        assert model.step(small.batch(seed, examples)).finite
    return model.state_hash()


def test_a_trainer_takes_one_thread_whatever_there_are(small: SimpleNamespace) -> None:
    hashes = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model = small.trainer()
        if model.config.device == "cpu":
            assert torch.get_num_threads() == 1
        hashes.append(learnt(small, model))
    assert hashes[0] == hashes[1]


def test_bf16_repeats_exactly_and_has_a_hash_of_its_own(small: SimpleNamespace) -> None:
    exact, first, second = (
        learnt(small, small.trainer(network=NetworkConfig(bf16=bf16)))
        for bf16 in (False, True, True)
    )
    assert first == second != exact
