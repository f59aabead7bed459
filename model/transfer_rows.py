"""Transfer of embedding rows: by key, and within a row by what each number is of."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from model.axes import matched, of_outputs
from model.embedding import BY_KEY, EmbeddingConfig
from model.idmap import table_salt
from model.score import Predictor


def transfer_rows(
    arrays: Mapping[str, np.ndarray], kind: str, theirs: Predictor, ours: Predictor,
    tree: dict[str, np.ndarray],
) -> int:  # fmt: skip
    """Carries `arrays` of their embedding, of which `kind` is the optimiser ("" if not known), into
    `tree`, those of ours; returns how many rows of ids.

    None where dimensions differ, or no table is in both. Raises ValueError where ours evicts by age
    and theirs does not say when its ids were seen.
    """
    table = ours.embedding
    tables = [set(m.embedding.layout.tables) for m in (theirs, ours)]
    if theirs.embedding.dim != table.dim or not tables[0] & tables[1]:
        return 0
    strange = [-1 - table_salt(name) for name in tables[0] - tables[1]]
    rows = np.flatnonzero(~np.isin(arrays["keys"], np.array(strange, np.int64)))
    keys = arrays["keys"][rows]
    whole = np.union1d(tree["keys"], keys)
    mine, to = np.searchsorted(whole, tree["keys"]), np.searchsorted(whole, keys)
    optimiser = table.optimiser
    beginnings = {
        "rows": np.zeros(table.dim + table.outputs, np.float32),
        "state": optimiser.fresh(table.dim, table.outputs),
    }
    for what, begin in beginnings.items():
        values = np.tile(begin, (len(whole), 1))
        values[mine] = tree[what]
        tree[what] = values
    columns = [_columns(table.dim, of_outputs(m.schema)) for m in (theirs, ours)]
    here, there = matched(*columns)[1::-1]
    tree["rows"][np.ix_(to, here)] = arrays["rows"][np.ix_(rows, there)]
    if kind == optimiser.kind and "state" in arrays:
        of_state = [_of_state(optimiser.kind, names) for names in columns]
        here, there = matched(*of_state)[1::-1]
        tree["state"][np.ix_(to, here)] = arrays["state"][np.ix_(rows, there)]
    tree["keys"] = whole
    _ages(arrays, rows, to, tree, table.config)
    return int((keys > 0).sum())


def _columns(dim: int, outputs: Sequence[Hashable]) -> list[Hashable]:
    """Names of the numbers of a row."""
    return [*range(dim), *outputs]


def _of_state(kind: str, columns: Sequence[Hashable]) -> list[Hashable]:
    """Names of the numbers of the optimiser's state of a row (model/optim.py)."""
    if kind == "sgd":
        return []
    second = [("second", name) for name in ("deep", *(c for c in columns if type(c) is not int))]
    return [*second, *(["age", *(("first", c) for c in columns)] if kind == "adam" else [])]


def _ages(
    arrays: Mapping[str, np.ndarray], rows: np.ndarray, to: np.ndarray,
    tree: dict[str, np.ndarray], config: EmbeddingConfig,
) -> None:  # fmt: skip
    """Carries when keys were seen, where that decides who leaves."""
    if "turn" not in tree:
        return
    if "turn" not in arrays:
        if config.max_age_ms is not None:
            raise ValueError(
                "the model to begin with does not say when its ids were seen, as its embedding had "
                f"no bounds: EmbeddingConfig.max_age_ms is {config.max_age_ms}, expected None"
            )
        for name in BY_KEY:
            del tree[name]
        return
    for name, unseen in zip(BY_KEY, (-1, 0), strict=True):
        values = np.full(len(tree["keys"]), unseen, np.int64)
        values[to] = arrays[name][rows]
        tree[name] = values
    tree["now_ms"] = np.maximum(tree["now_ms"], arrays["now_ms"])
