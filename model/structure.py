"""Which network a model has: its structure, its sizes, and what it is refused for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.schema import nearest

SHARING = ("single_task", "shared_bottom", "mmoe", "ple", "cross_stitch")
APART = ("", "rows", "network")


@dataclass(frozen=True)
class NetworkConfig:
    """`width` of the bottom, or of each expert or branch; `tower`: the hidden width of each task's
    tower.

    `experts` are those that all tasks read (of mmoe and ple), `own_experts` each task's beside them
    (of ple). `levels` of ple (one is CGC) or cross_stitch stand one upon another. `products` names
    pairs of bags whose rows are multiplied, number by number, as added inputs; by default those of
    `network.pairs`. `crossed` names pairs of bags, the first of one id, whose pairs of ids have
    rows of their own; by default the user with each list of ids (`network.lists`). `attention`
    names bags, such as "history", that the item attends to; `cross` is the number of DCN-v2's
    layers; `fm` adds factorisation machines (all in model/interactions.py). `norm`, `residual` and
    `dropout`: batch normalisation, blocks and dropout of the towers (model/towers.py). `bf16` makes
    the products of what tasks share in bfloat16, and keeps the weights and all else in 32 bits: for
    large batches, and machines that multiply so. `apart` is what each task has for itself, although
    it could be shared: embedding "rows", or the "network" (model/apart.py).
    """

    sharing: str = "mmoe"
    experts: int = 4
    own_experts: int = 1
    levels: int = 1
    width: int = 64
    tower: int = 32
    products: tuple[tuple[str, str], ...] | None = None
    crossed: tuple[tuple[str, str], ...] | None = None
    attention: tuple[str, ...] = ()
    cross: int = 1
    fm: bool = False
    norm: bool = False
    residual: int = 0
    dropout: float = 0.0
    bf16: bool = False
    apart: str = ""

    def __post_init__(self) -> None:
        if self.sharing not in SHARING:
            raise ValueError(
                f"NetworkConfig.sharing is {self.sharing!r}: {nearest(self.sharing, SHARING)}"
            )
        if self.apart not in APART:
            raise ValueError(
                f"NetworkConfig.apart is {self.apart!r}: {nearest(self.apart, APART[1:])}"
            )
        if self.apart and self.sharing == "single_task":
            raise ValueError(
                f"NetworkConfig.apart is {self.apart!r}: expected '' with 'single_task', "
                "in which all is"
            )
        for name in ("experts", "own_experts", "levels", "width", "tower"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"NetworkConfig.{name} is {getattr(self, name)}: expected 1 or more"
                )
        for name in ("cross", "residual"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"NetworkConfig.{name} is {getattr(self, name)}: expected 0 or more"
                )
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"NetworkConfig.dropout is {self.dropout}: expected 0 or more, and less than 1"
            )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> NetworkConfig:
        """From `asdict`, or from that as JSON."""
        pairs = {
            name: None if raw[name] is None else tuple((a, b) for a, b in raw[name])
            for name in ("products", "crossed")
        }
        return cls(**{**raw, **pairs, "attention": tuple(raw["attention"])})
