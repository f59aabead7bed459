from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.batch import Bag, Layout
from model.embedding import Embedding, EmbeddingConfig
from model.idmap import table_salt
from model.optim import RowOptimiser
from model.pooling import merge, merge_in_torch, pool, pool_in_torch

LAYOUT = Layout((Bag("user", "user"), Bag("item", "item"), Bag("seen", "item", 3)))
OUTPUTS, DIM = 2, 4


def table(seed: int = 0, noise: float = 0.01, kind: str = "sgd", **limits: int | None) -> Embedding:
    config = EmbeddingConfig(DIM, init=0.1, noise=noise, **limits)
    return Embedding(LAYOUT, OUTPUTS, config, RowOptimiser(kind), seed)


def learn(
    embedding: Embedding, keys: list[list[int]], gradient: float = 1.0, now_ms: int = 0
) -> None:
    array = np.array(keys, np.int64)
    weights = (array != 0).astype(np.float32)
    deep = torch.full((len(keys), len(LAYOUT.bags), DIM), gradient)
    wide = torch.full((len(keys), OUTPUTS), gradient)
    embedding.learn(
        array, embedding.find(array), weights, deep, wide, torch.full((3,), 0.1), now_ms
    )


def row(embedding: Embedding, key: int) -> np.ndarray:
    return embedding.rows[int(embedding.ids.lookup(np.array([key]))[0])].numpy().copy()


def unseen(embedding: Embedding, name: str) -> np.ndarray:
    return row(embedding, -1 - table_salt(name))


def pooled(embedding: Embedding, keys: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(keys, np.int64)
    deep = torch.full((len(keys), len(LAYOUT.bags), DIM), 9.0)
    wide = torch.full((len(keys), OUTPUTS), 9.0)
    weights = np.ones(array.shape, np.float32)
    embedding.pool(embedding.find(array), weights, deep, wide)
    return deep.numpy(), wide.numpy()


def test_an_id_not_seen_scores_as_its_tables_unseen_row_and_is_not_admitted() -> None:
    embedding = table()
    learn(embedding, [[11, 22, 0, 0, 0]])
    deep, _ = pooled(embedding, [[77, 88, 99, 0, 0]])
    assert (deep[0, 0] == unseen(embedding, "user")[:DIM]).all()
    assert (deep[0, 1] == unseen(embedding, "item")[:DIM]).all()
    assert (deep[0, 2] == unseen(embedding, "item")[:DIM]).all()
    assert len(embedding) == 2 + 2
    assert (unseen(embedding, "user") != unseen(embedding, "item")).any()


def test_a_new_id_starts_as_the_unseen_row_and_its_gradient_moves_both() -> None:
    embedding = table(noise=0.0)
    before = unseen(embedding, "user")
    learn(embedding, [[11, 0, 0, 0, 0], [12, 0, 0, 0, 0]])
    assert row(embedding, 11) == pytest.approx(before - 0.1, abs=1e-6)
    assert unseen(embedding, "user") == pytest.approx(before - 0.2, abs=1e-6)
    late = unseen(embedding, "user")
    learn(embedding, [[11, 0, 0, 0, 0]])
    assert row(embedding, 11) == pytest.approx(before - 0.2, abs=1e-6)
    assert (unseen(embedding, "user") == late).all()


def test_new_ids_tell_apart_by_noise_in_the_deep_part_only() -> None:
    embedding = table(noise=0.01)
    learn(embedding, [[11, 0, 0, 0, 0], [12, 0, 0, 0, 0]], gradient=0.0)
    a, b, origin = row(embedding, 11), row(embedding, 12), unseen(embedding, "user")
    assert (a[:DIM] != b[:DIM]).all() and (abs(a - origin) <= 0.01).all()
    assert (a[DIM:] == origin[DIM:]).all() and (b[DIM:] == origin[DIM:]).all()


def test_an_ids_first_row_does_not_depend_on_the_order_of_arrival() -> None:
    one, two = table(), table()
    learn(one, [[11, 0, 0, 0, 0], [12, 0, 0, 0, 0]], 0.0)
    learn(two, [[12, 0, 0, 0, 0]], 0.0)
    learn(two, [[11, 0, 0, 0, 0]], 0.0)
    for name, array in one.arrays().items():
        assert np.array_equal(array, two.arrays()[name]), name
    assert (table(seed=1).arrays()["rows"] != table(seed=0).arrays()["rows"]).any()


def test_growth_moves_no_row() -> None:
    embedding = table()
    for start in range(1, 6_000, 60):
        learn(embedding, [[k, 0, 0, 0, 0] for k in range(start, start + 60)], 0.0)
    fresh = table()
    learn(fresh, [[4_321, 0, 0, 0, 0]], 0.0)
    assert (row(embedding, 4_321) == row(fresh, 4_321)).all() and len(embedding) == 6_002


def test_before_its_admission_an_id_moves_the_unseen_row_only() -> None:
    embedding, before = table(noise=0.0, admit_after=3), unseen(table(noise=0.0), "user")
    learn(embedding, [[11, 0, 0, 0, 0]])
    learn(embedding, [[11, 0, 0, 0, 0]])
    assert len(embedding) == 2
    assert unseen(embedding, "user") == pytest.approx(before - 0.2, abs=1e-6)
    learn(embedding, [[11, 0, 0, 0, 0]])
    assert unseen(embedding, "user") == pytest.approx(before - 0.3, abs=1e-6)
    assert row(embedding, 11) == pytest.approx(before - 0.3, abs=1e-6)


@pytest.mark.parametrize(
    ("limits", "others", "now_ms"), [({"capacity": 2}, 2, 0), ({"max_age_ms": 60}, 1, 61)]
)
def test_an_evicted_id_comes_back_as_new(limits: dict, others: int, now_ms: int) -> None:
    embedding = table(kind="adam", **limits)
    for _ in range(5):
        learn(embedding, [[11, 0, 0, 0, 0]], 2.0)
    place = int(embedding.ids.lookup(np.array([11]))[0])
    for other in range(others):
        learn(embedding, [[12 + other, 0, 0, 0, 0]], 0.0, now_ms)
    deep, _ = pooled(embedding, [[11, 0, 0, 0, 0]])
    assert (deep[0, 0] == unseen(embedding, "user")[:DIM]).all()
    assert embedding.ids.lookup(np.array([11])).tolist() == [-1]
    fresh = table(kind="adam")
    fresh.rows[:2] = embedding.rows[:2]
    learn(embedding, [[11, 0, 0, 0, 0]], 0.0, now_ms)
    learn(fresh, [[11, 0, 0, 0, 0]], 0.0)
    again = int(embedding.ids.lookup(np.array([11]))[0])
    assert (row(embedding, 11) == row(fresh, 11)).all() and again in (place, place + 1)
    assert (embedding.state[again] == fresh.state[2]).all()


@pytest.mark.parametrize("capacity", [10, 3_000, 20_000])
@pytest.mark.parametrize("after", [1, 2])
def test_all_its_memory_is_within_the_bound(capacity: int, after: int) -> None:
    embedding = table(kind="adam", capacity=capacity, admit_after=after)
    learn(embedding, [[1, 0, 0, 0, 0]])
    embedding.changes.clean()
    for start in range(1, 3 * capacity, 3_000):
        for _ in range(2 * after - 1):
            learn(embedding, [[k, k, k, k, 0] for k in range(start, start + 3_000)], 0.0)
            admission, most = embedding._admission, embedding.most_bytes
            arrays = [embedding.rows.numpy(), embedding.state.numpy(), admission.marks]
            tables = [admission.rows] + ([admission.waiting] if after > 1 else [])
            arrays += [a for places in tables for a in (*places.table, *(places._next or ()))]
            arrays += [admission.counts] if after > 1 else []
            arrays += [embedding.changes._flags, *embedding.changes._gone]
            used = sum(array.nbytes for array in arrays if array is not None)
            assert most is not None and used <= most
            assert len(embedding) <= capacity + 2
    assert len(embedding) == capacity + 2 and used > most / 3


@pytest.mark.parametrize("name", ["dim", "admit_after", "capacity", "max_age_ms"])
def test_a_limit_below_one_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"EmbeddingConfig\.{name} is 0"):
        EmbeddingConfig(**{name: 0})


def test_a_state_of_more_ids_than_there_is_room_for_is_refused() -> None:
    embedding = table(admit_after=2)
    learn(embedding, [[1, 2, 1, 2, 3], [4, 5, 5, 7, 4]])
    table(capacity=4).load(embedding.arrays())
    with pytest.raises(ValueError, match=r"state has 4 ids: EmbeddingConfig.capacity is 3"):
        table(capacity=3).load(embedding.arrays())


def test_a_delta_and_what_was_before_make_what_is_now() -> None:
    draw, embedding = np.random.default_rng(3), table(capacity=50, max_age_ms=40)
    told: dict[int, np.ndarray] = {}
    assert embedding.changes.since() is None
    for step in range(200):
        keys = (draw.random((6, 5)) ** 3 * 300).astype(np.int64)
        learn(embedding, keys.tolist(), 0.1, step)
        if step % 2:
            continue
        found = embedding.changes.since()
        now = {int(key): row(embedding, int(key)) for key in embedding.arrays()["keys"]}
        changed, gone = found if found else (embedding.arrays()["keys"], np.array([], np.int64))
        told = {k: v for k, v in told.items() if k not in gone.tolist()}
        told |= {int(key): row(embedding, int(key)) for key in changed}
        assert told.keys() == now.keys() and all((told[k] == now[k]).all() for k in now)
        assert step == 0 or (found is not None and 2 < len(changed) < len(now) + 1)
        embedding.changes.clean()


def test_more_evictions_than_rows_ask_for_a_whole_snapshot() -> None:
    embedding = table(capacity=4)
    embedding.changes.clean()
    for start in range(1, 11):
        learn(embedding, [[start, 0, 0, 0, 0]])
    assert embedding.changes.since() is not None
    learn(embedding, [[99, 0, 0, 0, 0]])
    assert embedding.changes.since() is None


def test_pooling_is_torchs_embedding_bag() -> None:
    draw = np.random.default_rng(0)
    rows = torch.tensor(draw.normal(size=(20, DIM + OUTPUTS)), dtype=torch.float32)
    index = draw.integers(0, 20, (7, 3))
    weights = draw.normal(size=(7, 3)).astype(np.float32)
    deep, wide = torch.empty(7, 1, DIM), torch.empty(7, OUTPUTS)
    pool(rows, index, weights, np.zeros(3, np.int64), DIM, deep, wide)
    expected = F.embedding_bag(
        torch.from_numpy(index), rows, mode="sum", per_sample_weights=torch.from_numpy(weights)
    )
    assert torch.cat([deep[:, 0], wide], 1).numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_merged_gradients_are_autograds() -> None:
    draw = np.random.default_rng(1)
    rows = torch.tensor(draw.normal(size=(6, DIM + OUTPUTS)), requires_grad=True)
    index, bag_of = draw.integers(0, 6, (8, 5)), LAYOUT.bag_of_slot
    weights = draw.normal(size=(8, 5)).astype(np.float32)
    deep, wide = torch.zeros(8, 3, DIM).double(), torch.zeros(8, OUTPUTS).double()
    up, up_wide = torch.randn(8, 3, DIM), torch.randn(8, OUTPUTS)
    for s in range(5):
        part = rows[index[:, s]] * torch.from_numpy(weights[:, s : s + 1])
        deep[:, bag_of[s]] += part[:, :DIM]
        wide = wide + part[:, DIM:]
    ((deep * up).sum() + (wide * up_wide).sum()).backward()
    marks = np.full(6, -1, np.int64)
    touched, grads = merge(index, index, weights, bag_of, up, up_wide, marks)
    assert sorted(touched.tolist()) == sorted(set(index.ravel().tolist()))
    assert rows.grad is not None and (marks == -1).all()
    assert grads.numpy() == pytest.approx(rows.grad[touched].numpy(), abs=1e-5)


def test_kernels_and_torch_operations_agree() -> None:
    draw = np.random.default_rng(2)
    rows = torch.tensor(draw.normal(size=(30, DIM + OUTPUTS)), dtype=torch.float32)
    index = draw.integers(-1, 20, (16, 5))
    also = np.where((index >= 0) & (draw.random((16, 5)) < 0.3), index + 10, index)
    weights = draw.normal(size=(16, 5)).astype(np.float32)
    weights[0] = 0
    bag_of = LAYOUT.bag_of_slot
    found = [(torch.empty(16, 3, DIM), torch.empty(16, OUTPUTS)) for _ in range(2)]
    pool(rows, index, weights, bag_of, DIM, *found[0])
    pool_in_torch(rows, index, weights, bag_of, DIM, *found[1])
    for a, b in zip(*found, strict=True):
        assert a.numpy() == pytest.approx(b.numpy(), abs=1e-6)
    touched, grads = merge(index, also, weights, bag_of, *found[0], np.full(30, -1, np.int64))
    expected, theirs = merge_in_torch(index, also, weights, bag_of, *found[0])
    order = touched.argsort()
    assert (touched[order] == expected).all()
    assert grads[order].numpy() == pytest.approx(theirs.numpy(), abs=1e-5)


def test_a_loaded_table_has_the_same_arrays_and_goes_on_the_same() -> None:
    one, two = table(), table()
    learn(one, [[5, 6, 7, 8, 0], [9, 6, 8, 0, 0]])
    two.load(one.arrays())
    for embedding in (one, two):
        learn(embedding, [[5, 1, 7, 2, 0], [3, 6, 8, 0, 0]], -0.5)
    for name, array in one.arrays().items():
        assert np.array_equal(array, two.arrays()[name]), name


@pytest.mark.parametrize("names", [("user", "item"), ("item", "user")])
def test_after_a_load_each_table_keeps_its_own_unseen_row(names: tuple[str, str]) -> None:
    layout = Layout(tuple(Bag(name, name) for name in names))
    one, two = (
        Embedding(layout, OUTPUTS, EmbeddingConfig(DIM), RowOptimiser("sgd"), 0) for _ in range(2)
    )
    two.load(one.arrays())
    keys, weights = np.array([[123, 456]]), np.ones((1, 2), np.float32)
    found = []
    for embedding in (one, two):
        deep, wide = torch.empty(1, 2, DIM), torch.empty(1, OUTPUTS)
        embedding.pool(embedding.find(keys), weights, deep, wide)
        found.append(deep.numpy())
    assert np.array_equal(*found)
