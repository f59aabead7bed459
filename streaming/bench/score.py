"""`serve.score`: 500 candidates of one user, one thread, against the naive network.

Half of the ids and columns are the user's and the request's, so all candidates have them in common;
row `serve.score_apart` is of candidates that have nothing in common.
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from model.score import Scorer
from model.train import Trainer
from streaming.bench.train import config, naive
from streaming.bench.train_work import DENSE, FIELDS, Work, layout, schema, table_inputs

Network = Callable[[torch.Tensor, torch.Tensor], Any]
ITEMS, CANDIDATES, TIMES, LEARNED = 7_000, 500, 100, 20


def run(runs: int) -> list[dict[str, Any]]:
    """The rows, in seconds a ranking (median). ONNX Runtime's are there where it is installed."""
    torch.set_num_threads(1)
    trainer = Trainer(schema, layout, config(64, "cpu"), seed=0)
    for batch in Work(ITEMS, 64, LEARNED).batches:
        trainer.step(batch)
    scorer, work = Scorer(*trainer.snapshot()), Work(ITEMS, CANDIDATES, 1, seed=1)
    with torch.no_grad():
        model = naive(work, "cpu").eval()
        others = {"naive": lambda ids, dense: model(ids, dense).sigmoid()} | _onnx(model, work)
        return [
            row
            for name, shared in (("serve.score", 0.5), ("serve.score_apart", 0.0))
            for row in _rows(name, scorer, others, work, shared, runs)
        ]


def _rows(
    name: str, scorer: Scorer, others: dict[str, Network], work: Work, shared: float, runs: int
) -> list[dict[str, Any]]:
    ids, dense = work.ids[0].copy(), work.batches[0].inputs.dense.copy()
    fields, columns = int(shared * FIELDS), int(shared * DENSE)
    ids[:, :fields], dense[:, :columns] = ids[0, :fields], dense[0, :columns]
    inputs = table_inputs(ids, dense)
    given = torch.from_numpy(ids), torch.from_numpy(dense)
    works: dict[str, Callable[[], Any]] = {"ours": lambda: scorer.rank(inputs)}
    works |= {other: partial(network, *given) for other, network in others.items()}
    taken: dict[str, list[float]] = {kind: [] for kind in works}
    for _ in range(runs):
        for kind, times in taken.items():
            times.append(_p50(works[kind]))
    p50s = {kind: statistics.median(times) for kind, times in taken.items()}
    value = p50s.pop("ours")
    return [
        {
            "name": name,
            "value": round(value, 6),
            "unit": "s",
            "baseline": {"name": other, "value": round(baseline, 6)},
            "ratio": round(baseline / value, 2),
            "runs": runs,
        }
        for other, baseline in p50s.items()
    ]


def _onnx(model: torch.nn.Module, work: Work) -> dict[str, Network]:
    """The naive network in ONNX Runtime, in 32 bits and with int8 weights."""
    try:
        import onnxruntime
        from onnxruntime.quantization import quantize_dynamic
    except ImportError:
        return {}
    given = torch.from_numpy(work.ids[0]), torch.from_numpy(work.batches[0].inputs.dense)
    logging.disable(logging.WARNING)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    networks: dict[str, Network] = {}
    with TemporaryDirectory(prefix="freshet-onnx-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, small = Path(folder) / "naive.onnx", Path(folder) / "int8.onnx"
        program = torch.onnx.export(
            model, given, dynamo=True, verbose=False,
            input_names=["ids", "dense"], output_names=["logits"], external_data=False,
        )  # fmt: skip
        assert program is not None
        program.save(str(plain))
        quantize_dynamic(plain, small)
        for name, path in (("onnxruntime", plain), ("onnxruntime int8", small)):
            session = onnxruntime.InferenceSession(path.read_bytes(), options)
            networks[name] = partial(_run, session)
    logging.disable(logging.NOTSET)
    return networks


def _run(session: Any, ids: torch.Tensor, dense: torch.Tensor) -> Any:
    return session.run(["logits"], {"ids": ids.numpy(), "dense": dense.numpy()})


def _p50(work: Callable[[], Any]) -> float:
    """The median of the thread's own time: each of these is one thread that waits for nothing, so
    whatever else the machine does is left out."""
    times = []
    for _ in range(TIMES):
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return statistics.median(times[TIMES // 4 :])
