"""Weighters of gradients: against TorchJD, float64 formulas of the papers, and their promises."""

from __future__ import annotations

from copy import deepcopy
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchjd.aggregation import MGDA, PCGrad, UPGrad
from torchjd.linalg import QuadprogProjector

from model.batch import Batch
from model.combining import mgda, pcgrad, upgrad
from model.gradient_weighting import Combining, GradNorm
from model.structure import NetworkConfig
from model.task_weights import normalise
from model.weighting import COMBINING

NETWORKS = {
    "shared_bottom": NetworkConfig("shared_bottom"),
    "mmoe": NetworkConfig("mmoe"),
    "ple": NetworkConfig("ple"),
    "all_blocks": NetworkConfig("mmoe", fm=True, cross=1, attention=("seen",)),
}
SETS = [(seed, tasks) for seed in range(5) for tasks in (2, 4, 6)]


def gradients(seed: int, tasks: int) -> np.ndarray:
    """Of unlike lengths, about half of the pairs in conflict; float64 [task, 10]."""
    draw = np.random.default_rng(seed)
    return draw.normal(0, 1, (tasks, 10)) * draw.uniform(0.2, 3.0, (tasks, 1))


def of_torchjd(aggregator: torch.nn.Module, rows: np.ndarray) -> np.ndarray:
    return aggregator(torch.from_numpy(rows)).numpy()


def shortest_of(gram: np.ndarray) -> np.ndarray:
    """The weights of the shortest convex combination: the best of all faces of the simplex."""
    tasks, best, found = len(gram), np.inf, np.zeros(len(gram))
    for size in range(1, tasks + 1):
        for face in map(list, combinations(range(tasks), size)):
            inside = np.linalg.solve(gram[np.ix_(face, face)], np.ones(size))
            w = np.zeros(tasks)
            w[face] = inside / inside.sum()
            if (w >= 0).all() and w @ gram @ w < best:
                best, found = w @ gram @ w, w
    return found


@pytest.mark.parametrize(("seed", "tasks"), SETS)
def test_mgda_is_the_shortest_combination(seed: int, tasks: int) -> None:
    rows = gradients(seed, tasks)
    gram = rows @ rows.T
    np.testing.assert_allclose(mgda(gram) @ rows, shortest_of(gram) @ rows, atol=1e-7)
    if tasks == 2:  # of more, its iteration comes to no more than two digits
        np.testing.assert_allclose(mgda(gram) @ rows, of_torchjd(MGDA(), rows), atol=1e-5)


@pytest.mark.parametrize(("seed", "tasks"), SETS)
def test_upgrad_agrees_with_torchjd(seed: int, tasks: int) -> None:
    rows = gradients(seed, tasks)
    theirs = UPGrad(projector=QuadprogProjector(norm_eps=0.0, reg_eps=1e-12))
    np.testing.assert_allclose(upgrad(rows @ rows.T) @ rows, of_torchjd(theirs, rows), atol=1e-5)


@pytest.mark.parametrize(("seed", "tasks"), SETS)
def test_pcgrad_is_the_papers_algorithm(seed: int, tasks: int) -> None:
    rows = gradients(seed, tasks)
    draw = np.random.default_rng(seed)
    orders = draw.permuted(np.tile(np.arange(tasks), (tasks, 1)), axis=1)
    total = np.zeros(10)
    for k in range(tasks):
        projected = rows[k].copy()
        for other in orders[k]:
            if other != k and projected @ rows[other] < 0:
                projected -= projected @ rows[other] / (rows[other] @ rows[other]) * rows[other]
        total += projected
    found = pcgrad(rows @ rows.T, orders) @ rows
    np.testing.assert_allclose(found, total, atol=1e-10)
    if tasks == 2:  # of two, there is one order
        np.testing.assert_allclose(found, of_torchjd(PCGrad(), rows), atol=1e-5)


def test_on_a_planted_conflict_each_method_keeps_its_promise() -> None:
    """Two gradients at 160 degrees, one ten times the other: their sum harms the smaller task."""
    angle = np.deg2rad(160)
    rows = np.array([[1.0, 0.0], [10 * np.cos(angle), 10 * np.sin(angle)]])
    gram, equal = rows @ rows.T, np.ones(2)
    assert (rows @ (equal @ rows))[0] < 0
    for method in COMBINING:
        direction = Combining(equal, method).combine(gram, equal) @ rows
        assert (rows @ direction >= -1e-9).all(), method
    shortest = mgda(gram)
    assert (gram @ shortest).min() == pytest.approx(shortest @ gram @ shortest)


def test_exactly_opposed_gradients_cancel_and_nothing_breaks() -> None:
    rows = np.array([[1.0, 2.0], [-2.0, -4.0]])
    gram = rows @ rows.T
    np.testing.assert_allclose(mgda(gram), [2 / 3, 1 / 3], rtol=1e-4)
    for method in COMBINING:
        weights = Combining([1.0, 1.0], method).combine(gram, [1.0, 1.0])
        assert np.linalg.norm(weights @ rows) < 1e-3, method


@pytest.mark.parametrize("method", COMBINING)
def test_a_task_without_a_gradient_stays_out(method: str) -> None:
    rows = np.array([[1.0, 0.2], [0.0, 0.0], [-0.9, 0.5]])
    weights = Combining([1.0, 1.0, 1.0], method).combine(rows @ rows.T, [1.0, 1.0, 1.0])
    two = Combining([1.0, 1.0], method).combine((rows @ rows.T)[::2, ::2], [1.0, 1.0])
    np.testing.assert_allclose(weights[[0, 2]], two)
    assert weights[1] == 1.0


@pytest.mark.parametrize("method", COMBINING)
def test_a_task_of_more_weight_gets_more(method: str) -> None:
    rows = gradients(3, 4)
    weighter, more = Combining(np.ones(4), method), normalise([3.0, 1.0, 1.0, 1.0])
    base = weighter.combine(rows @ rows.T, np.ones(4))
    moved = weighter.combine(rows @ rows.T, more)
    assert moved[0] > base[0]


def test_pcgrads_orders_come_of_the_seed_and_the_step() -> None:
    rows = gradients(5, 6)
    gram, equal = rows @ rows.T, np.ones(6)
    one, same, other = (Combining(equal, "pcgrad", seed=seed) for seed in (1, 1, 2))
    first = one.combine(gram, equal)
    np.testing.assert_array_equal(first, same.combine(gram, equal))
    assert (first != other.combine(gram, equal)).any()
    one.update(equal, [1] * 6, gram)
    assert (first != one.combine(gram, equal)).any()


def test_gradnorm_descends_the_papers_loss() -> None:
    """Against torch's own gradient of sum |w_k n_k - mean x r_k^power|, in units of the mean."""
    draw = np.random.default_rng(2)
    weighter = GradNorm([1.0] * 3, power=1.5, rate=0.01, window=1)
    weights, first = torch.ones(3, dtype=torch.float64), None
    for _ in range(40):
        rows, loss = gradients(int(draw.integers(1_000)), 3), draw.uniform(0.5, 2.0, 3)
        first = loss if first is None else first
        w = weights.clone().requires_grad_()
        norms = w * torch.from_numpy(np.linalg.norm(rows, axis=1))
        pace = torch.from_numpy(loss / first)
        mean = norms.mean().detach()
        aim = mean * (pace / pace.mean()) ** 1.5
        ((norms - aim).abs().sum() / mean).backward()
        weights = weights - 0.01 * w.grad
        weights = weights * 3 / weights.sum()
        found = weighter.update(loss, [4, 4, 4], rows @ rows.T)
    np.testing.assert_allclose(found, weights.numpy(), rtol=1e-9)


def apart(batch: Batch) -> Batch:
    """All labels known, so that every task has a gradient."""
    batch.mask[:] = True
    return batch


def shared_of(network: torch.nn.Module) -> list[torch.nn.Parameter]:
    own = {id(p) for p, _ in network.own(torch.ones(len(network.outputs)))}
    return [p for p in network.parameters() if id(p) not in own]


def by_task(model, batch: Batch, of: str) -> np.ndarray:
    """Each task's gradient, of a float64 copy of the network, by a backward pass of its own."""
    network, predictor = deepcopy(model.predictor.network).double(), model.predictor
    labels, mask = predictor.labels.standard(batch.labels, batch.mask)
    targets, counts = predictor.objective.targets(
        labels, mask, np.ones(len(model.task_weights)), model.config.batch_size
    )
    block = predictor.read(batch.inputs)
    deep = block.deep.detach().double().requires_grad_()
    read, of_fm = network.share(deep, block.dense.double())
    logits = network.answer(read, of_fm, block.wide.detach().double(), block.dense.double())
    error = predictor.objective.link(logits.detach()) - torch.from_numpy(targets)
    error = (error * torch.from_numpy(counts)).double()
    shared = shared_of(network)
    sources, rows = [read] if of == "representation" else [*shared, deep], []
    for task in range(len(model.task_weights)):
        columns = torch.from_numpy(predictor.objective.task_of_output == task)
        parts = torch.autograd.grad(logits, sources, error * columns, retain_graph=True)
        if of == "representation":  # of which each task reads a slice of its own
            assert not parts[0][[k for k in range(len(read)) if k != task]].any()
            parts = (parts[0][task],)
        rows.append(torch.cat([part.flatten() for part in parts]).detach().numpy())
    return np.stack(rows)


@pytest.mark.parametrize("of", ["representation", "parameters"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_step_combines_the_gradients_of_the_tasks(
    small: SimpleNamespace, network: NetworkConfig, of: str
) -> None:
    model = small.trainer(network=network, warmup=0)
    for seed in range(5):
        model.step(small.batch(seed))
    batch = apart(small.batch(9))
    rows = by_task(model, batch, of)
    whole = by_task(model, batch, "parameters")
    report = model.step(batch, Combining(model.task_weights, "upgrad", of))
    lengths = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(
        report.gram / np.outer(lengths, lengths), rows @ rows.T / np.outer(lengths, lengths),
        atol=1e-5,
    )  # fmt: skip
    expected = Combining(model.task_weights, "upgrad").combine(rows @ rows.T, model.task_weights)
    np.testing.assert_allclose(report.weights, expected, atol=1e-4)
    found = [p.grad.flatten() for p in shared_of(model.predictor.network)]
    numbers = sum(map(len, found))
    combined = report.weights @ whole[:, :numbers]
    np.testing.assert_allclose(
        torch.cat(found).numpy(), combined, atol=1e-5 * np.abs(combined).max()
    )


def test_what_is_a_tasks_own_learns_by_its_own_weight(small: SimpleNamespace) -> None:
    one, two = small.trainer(), small.trainer()
    batch = small.batch(1)
    one.step(batch)
    report = two.step(batch, Combining(one.task_weights, "mgda"))
    assert np.abs(report.weights - two.task_weights).max() > 0.01
    towers = [list(m.predictor.network.towers.parameters()) for m in (one, two)]
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(*towers, strict=True))


@pytest.mark.parametrize("of", ["representation", "parameters"])
@pytest.mark.parametrize("network", [NetworkConfig(), NetworkConfig(fm=True, dropout=0.2)])
def test_reading_gradients_changes_no_bit(
    small: SimpleNamespace, network: NetworkConfig, of: str
) -> None:
    """GradNorm moves the weights of the next step, so until then nothing else may differ."""
    plain, read = small.trainer(network=network), small.trainer(network=network)
    weighter = GradNorm(read.task_weights, gradients=of)
    for seed in range(5):
        plain.step(small.batch(seed))
        assert read.step(small.batch(seed), weighter).gram is not None
    assert plain.state_hash() == read.state_hash()


@pytest.mark.parametrize("of", ["representation", "parameters"])
def test_a_step_that_is_not_finite_changes_nothing(small: SimpleNamespace, of: str) -> None:
    model = small.trainer()
    weighter = Combining(model.task_weights, "pcgrad", of)
    model.step(small.batch(1), weighter)
    before = model.state_hash()
    bad = apart(small.batch(2))
    bad.inputs.dense[0, 0] = np.nan
    assert not model.step(bad, weighter).finite
    assert model.state_hash() == before


def test_a_network_that_shares_nothing_has_no_conflict(small: SimpleNamespace) -> None:
    model = small.trainer(network=NetworkConfig("single_task"))
    with pytest.raises(ValueError, match="share something"):
        model.step(small.batch(1), Combining(model.task_weights, "pcgrad"))
