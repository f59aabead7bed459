"""Names for the numbers of a network's tensors: of which field, column, task or expert each one is.

What has one name in two models is the same thing in both, wherever it stands and whatever stands
beside it. A task is the same if what it means to predict it is: name, kind, classes, transform and
the task that it is given. Where size matters (a hidden layer's), it is in the name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from model.alone import Alone
from model.network import Network, pairs
from model.schema import Schema, Task
from model.score import Predictor

Names = Sequence[Hashable]

_RULES = (
    (r"sharing\.weight", ("inputs", "mixed")),
    (r"sharing\.bias", ("mixed",)),
    (r"sharing\.levels\.0\.own_weight", ("tasks", "inputs", "own")),
    (r"sharing\.levels\.\d+\.own_(weight|bias)", ("tasks", "", "own")),
    (r"sharing\.levels\.0\.weight", ("inputs", "shared")),
    (r"sharing\.levels\.\d+\.weight", ("", "shared")),
    (r"sharing\.levels\.\d+\.bias", ("shared",)),
    (r"sharing\.weights\.0", ("tasks", "inputs", "")),
    (r"sharing\.(weights|biases)\.\d+", ("tasks", "", "")),
    (r"sharing\.stitches\.\d+", ("tasks", "branches")),
    (r"towers\.out(_bias)?", ("tasks", "", "classes")),
    (r"towers\.norm\.count", ("",)),
    (r"towers\..*", ("tasks", "", "")),
    (r"linear", ("dense", "outputs")),
    (r"bias", ("outputs",)),
    (r"cross\.weights\.\d+", ("inputs", "inputs")),
    (r"cross\.biases\.\d+", ("inputs",)),
    (r"fm\.weight", ("", "outputs")),
    (r"attention\..*", ("", "")),
    (r"convolutions\.\d+\.norm\.count", ("",)),
    (r"convolutions\..*", ("", "", "", "")),
)


def of_task(task: Task) -> Hashable:
    return (task.name, task.kind, task.classes, task.transform, task.given)


def of_outputs(schema: Schema) -> Names:
    """Of each prediction."""
    return [(of_task(task), c) for task in schema.tasks for c in range(task.outputs)]


def of_inputs(model: Predictor, network: Network, schema: Schema) -> Names:
    """Of each number that the network reads, in the order in which `Network.share` puts them."""
    layout, config, dim = network.layout, model.config, range(model.embedding.dim)
    named = pairs(schema, layout) if config.products is None else config.products
    return [
        *(("bag", bag.name, c) for bag in layout.bags for c in dim),
        *(("dense", column) for column in network.plain),
        *(("grid", field.name, c) for field in schema.grids for c in dim),
        *(("product", *pair, c) for pair in named for c in dim),
        *(("attended", bag, c) for bag in config.attention for c in dim),
    ]


def axes(model: Predictor) -> Iterator[tuple[str, str, torch.Tensor, list[Names], list[int]]]:
    """Of each tensor of the network: its name in `state()`, the one that it has in any model, the
    tensor, the names along each of its axes, and which of these are of inputs."""
    network, schema = model.network, model.schema
    if not isinstance(network, Alone):
        yield from _of_network(model, network, schema, "", "")
        return
    for number, (net, task) in enumerate(zip(network.networks, schema.tasks, strict=True)):
        alone = replace(schema, tasks=(replace(task, given=""),))
        yield from _of_network(model, net, alone, f"networks.{number}.", f"{of_task(task)}/")  # type: ignore[arg-type]


def _of_network(
    model: Predictor, network: Network, schema: Schema, prefix: str, owner: str
) -> Iterator[tuple[str, str, torch.Tensor, list[Names], list[int]]]:
    config = model.config
    tasks = [of_task(task) for task in schema.tasks]
    experts = range(config.experts)
    own = ("own", config.own_experts, config.experts, config.width)
    known: dict[str, Names] = {
        "inputs": of_inputs(model, network, schema),
        "dense": network.plain,
        "tasks": tasks,
        "branches": tasks,
        "outputs": of_outputs(schema),
        "mixed": _hidden(config.width),
        "own": [(own, c) for c in range(config.own_experts * (config.width + 1) + config.experts)],
        "classes": range(max(task.outputs for task in schema.tasks)),
    }
    if config.sharing == "mmoe":
        size = (config.experts, config.width)
        known["mixed"] = [
            *(("expert", *size, c) for c in range(config.experts * config.width)),
            *(("gate", *size, task, e) for task in tasks for e in experts),
        ]
    known["shared"] = [
        *((*own, "expert", c) for c in range(config.experts * config.width)),
        *((*own, task, e) for task in tasks for e in range(config.own_experts)),
        *((*own, "all", e) for e in experts),
    ]
    for name, tensor in network.state_dict(keep_vars=True).items():
        kinds = next(kinds for rule, kinds in _RULES if re.fullmatch(rule, name))
        sizes = tensor.shape
        names = [
            _hidden(size) if kind == "" else known[kind][:size]
            for kind, size in zip(kinds[: len(sizes)], sizes, strict=True)
        ]
        inputs = [axis for axis, kind in enumerate(kinds) if kind in ("inputs", "branches")]
        common = re.sub(
            r"attention\.(\d+)", lambda m: f"attention.{config.attention[int(m[1])]}", name
        )
        common = re.sub(
            r"convolutions\.(\d+)", lambda m: f"convolutions.{schema.grids[int(m[1])].name}", common
        )
        yield prefix + name, owner + common, tensor, names, inputs


def _hidden(size: int) -> Names:
    """Places that have no name but their number, among so many."""
    return [(size, i) for i in range(size)]


def matched(theirs: Names, ours: Names) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where what both have is in each, and where what only we have is."""
    at = {name: place for place, name in enumerate(theirs)}
    both = [place for place, name in enumerate(ours) if name in at]
    new = [place for place, name in enumerate(ours) if name not in at]
    return tuple(np.array(a, np.int64) for a in ([at[ours[p]] for p in both], both, new))  # type: ignore[return-value]


def carry(
    source: np.ndarray, theirs: Sequence[Names],
    target: np.ndarray, ours: Sequence[Names], inputs: Sequence[int] = (),
) -> int:  # fmt: skip
    """Copies the numbers that have one name along every axis; returns how many. Along the axes
    `inputs` those of what is new become 0."""
    found = [matched(a, b) for a, b in zip(theirs, ours, strict=True)]
    if not all(both.size for _, both, _ in found):
        return 0
    to = [both for _, both, _ in found]
    for axis in inputs:
        target[np.ix_(*to[:axis], found[axis][2], *to[axis + 1 :])] = 0
    target[np.ix_(*to)] = source[np.ix_(*(of_source for of_source, _, _ in found))]
    return math.prod(len(both) for both in to)
