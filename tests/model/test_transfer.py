from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.batch import Bag, Batch, Inputs, Layout
from model.embedding import EmbeddingConfig
from model.idmap import table_keys, table_salt
from model.optim import KINDS, DenseOptimiser, RowOptimiser
from model.schema import Field, Schema, Task
from model.structure import SHARING, NetworkConfig
from model.train import Trainer
from model.transfer import Source, transfer

CLICK, KIND, TIME = (
    Task("click", "binary", 0),
    Task("kind", "multiclass", 0, classes=3),
    Task("time", "regression", 0),
)
USER, ITEM = Field("user", "id"), Field("item", "id")
OLD = Schema((USER, ITEM), (CLICK, KIND, TIME), "user", "item")
NEW = Schema(
    (Field("maker", "id"), USER, ITEM), (Task("like", "binary", 0), TIME, KIND, CLICK), "user",
    "item",
)  # fmt: skip
OLD_LAYOUT = Layout((Bag("user", "user"), Bag("item", "item")), ("age", "hour"))
NEW_LAYOUT = Layout(
    (Bag("maker", "maker"), Bag("item", "item"), Bag("user", "user")), ("price", "hour", "age")
)
COLUMNS = [NEW.output_slices["click"], NEW.output_slices["kind"], NEW.output_slices["time"]]


def batches(seed: int, n: int = 64) -> tuple[Batch, Batch]:
    """One batch as the old schema has it, and as the new one."""
    draw = np.random.default_rng(seed)
    ids = {name: draw.integers(0, 30, n) for name in ("user", "item", "maker")}
    keys = {name: table_keys(table_salt(name), of) for name, of in ids.items()}
    dense = {name: draw.normal(3, 2, n) for name in ("age", "hour", "price")}
    score = ids["user"] % 5 - 2 + dense["age"] - 3
    labels = {"click": score > 0, "kind": np.digitize(score, [-1, 1]), "time": 20 + 5 * score}
    labels["like"] = ids["item"] % 2

    def of(schema: Schema, layout: Layout) -> Batch:
        read = np.column_stack([keys[bag.name] for bag in layout.bags])
        numbers = np.column_stack([dense[name] for name in layout.dense]).astype(np.float32)
        known = np.column_stack([labels[t.name] for t in schema.tasks]).astype(np.float32)
        inputs = Inputs(read, np.ones(read.shape, np.float32), numbers)
        return Batch(inputs, known, np.ones(known.shape, bool), time_ms=seed)

    return of(OLD, OLD_LAYOUT), of(NEW, NEW_LAYOUT)


def old(steps: int = 20, **settings: object) -> Trainer:
    trainer = Trainer(OLD, OLD_LAYOUT, Trainer.Config(**settings), 0)  # type: ignore[arg-type]
    for seed in range(steps):
        assert trainer.step(batches(seed)[0]).finite
    return trainer


def source(trainer: Trainer) -> Source:
    state, meta = trainer.state(), trainer.predictor.meta()
    return Source(meta, state["model"], state["optimiser"], trainer.config.rows.kind)


def new(**settings: object) -> Trainer:
    return Trainer(NEW, NEW_LAYOUT, Trainer.Config(**settings), 1)  # type: ignore[arg-type]


def old_of(predictions: np.ndarray) -> np.ndarray:
    """Predictions of the old tasks, in their old columns."""
    return np.concatenate([predictions[:, columns] for columns in COLUMNS], 1)


@pytest.mark.parametrize("sharing", SHARING)
def test_a_task_and_a_field_more_change_no_prediction_of_the_old_tasks(sharing: str) -> None:
    network = NetworkConfig(sharing, cross=1, norm=True, residual=1)
    one, two = old(network=network), new(network=network)
    told = transfer(source(one), two)
    assert told["tasks"] == {"taken": ["time", "kind", "click"], "new": ["like"], "left": []}
    assert told["dense"] == {"taken": ["hour", "age"], "new": ["price"], "left": []}
    tables = told["tables"]
    if sharing == "single_task":
        assert tables["taken"] and all(
            t.endswith(("@click", "@kind", "@time")) for t in tables["taken"]
        )
    else:
        assert tables == {"taken": ["item", "user"], "new": ["maker"], "left": []}
    assert told["ids"] == len(one.predictor.embedding) - len(one.predictor.embedding.unseen_keys)
    a, b = batches(99)
    expected = one.predict(a.inputs)
    assert old_of(two.predict(b.inputs)) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    before = np.abs(old_of(new(network=network).predict(b.inputs)) - expected).max()
    assert before > 0.1
    for seed in range(20, 25):
        assert two.step(batches(seed)[1]).finite


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimisers_state_goes_with_the_weights(kind: str) -> None:
    settings = {
        "dense": DenseOptimiser(kind, lr=0.01), "rows": RowOptimiser(kind, lr=0.01),
    }  # fmt: skip
    one, two = old(**settings), Trainer(OLD, OLD_LAYOUT, Trainer.Config(**settings), 5)
    told = transfer(source(one), two)
    assert all(taken == of for taken, of in told["network"].values())
    for part in ("model", "optimiser"):
        mine, theirs = one.state()[part], two.state()[part]
        if part == "optimiser":
            assert mine.keys() == theirs.keys()
            assert all((mine[name] == theirs[name]).all() for name in mine)
            continue
        for name in ("network", "embedding", "dense", "labels"):
            assert mine[name].keys() == theirs[name].keys()
            for what in mine[name]:
                assert (mine[name][what] == theirs[name][what]).all(), (name, what)


def test_of_a_snapshot_all_is_taken_but_the_optimisers_state() -> None:
    one, two = old(), new()
    arrays, meta = one.snapshot()
    state: dict = {}
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        state.setdefault(part, {})[rest] = array
    told = transfer(Source(meta, state), two)
    assert told["ids"] > 50 and (two.state()["optimiser"]["sum"] == 0).all()
    a, b = batches(99)
    assert old_of(two.predict(b.inputs)) == pytest.approx(one.predict(a.inputs), abs=1e-4, rel=1e-4)


def test_what_does_not_fit_is_said_and_left() -> None:
    one, two = old(), new(network=NetworkConfig(width=32), embedding=EmbeddingConfig(8))
    told = transfer(source(one), two)
    assert told["ids"] == 0 and told["network"]["sharing"][0] == 0
    assert told["network"]["linear"] == [2 * 5, 3 * 6]
    other = replace(OLD, tasks=(replace(TIME, transform="log1p"), CLICK))
    three = Trainer(other, OLD_LAYOUT, Trainer.Config(), 0)
    told = transfer(source(one), three)
    assert told["tasks"] == {"taken": ["click"], "new": ["time"], "left": ["kind", "time"]}


def test_who_is_to_leave_next_is_taken_over() -> None:
    limited = EmbeddingConfig(capacity=45)
    one = old(embedding=limited)
    two = new(embedding=limited)
    assert transfer(source(one), two)["ids"] == 45
    mine, theirs = one.state()["model"]["embedding"], two.state()["model"]["embedding"]
    ids = [e["keys"] > 0 for e in (mine, theirs)]
    assert (mine["turn"][ids[0]] == theirs["turn"][ids[1]]).all()
    assert (mine["seen_ms"][ids[0]] == theirs["seen_ms"][ids[1]]).all()
    with pytest.raises(ValueError, match=r"state has 45 ids: EmbeddingConfig\.capacity is 9"):
        transfer(source(one), new(embedding=EmbeddingConfig(capacity=9)))
    with pytest.raises(ValueError, match="does not say when its ids were seen"):
        transfer(source(old()), new(embedding=EmbeddingConfig(max_age_ms=10)))
