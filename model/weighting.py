"""Which weighter an application has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.gradient_weighting import GRADIENTS, Combining, GradNorm
from model.loss_weighting import AgainstReference, DynamicWeightAverage, Uncertainty
from model.schema import nearest
from model.task_weights import Fixed, Weighter

COMBINING = ("pcgrad", "mgda", "upgrad")
KINDS = ("fixed", "uncertainty", "dwa", "reference", "gradnorm", *COMBINING)


@dataclass(frozen=True)
class Weighting:
    """The kind of a weighter, and its numbers. All start from the tasks' own weights.

    fixed        the tasks' own weights
    uncertainty  less to noisier tasks; learns at `rate`
    dwa          more to tasks whose loss falls least; `temperature`, and `window` in steps
    reference    more to tasks that do worse than they used to; `power`, and `window` in steps
    gradnorm     one pace of learning for all; `power`, `rate`, and `window` in steps
    pcgrad, mgda, upgrad  gradients of what tasks share combined so that they do not conflict

    The last two lines read `gradients`: by the "representation" that the towers read, which costs
    little, or by all shared "parameters", a backward pass a task.
    """

    kind: str = "fixed"
    temperature: float = 2.0
    window: int = 200
    rate: float = 0.01
    power: float = 1.0
    gradients: str = "representation"

    def __post_init__(self) -> None:
        for name, known in (("kind", KINDS), ("gradients", GRADIENTS)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"Weighting.{name} is {value!r}: {nearest(value, known)}")

    @property
    def reads(self) -> bool:
        """Whether it reads gradients."""
        return self.kind in ("gradnorm", *COMBINING)

    def build(self, base: Sequence[float], seed: int = 0) -> Weighter:
        """The weighter, for tasks whose own weights are `base` [task]."""
        if self.kind in COMBINING:
            return Combining(base, self.kind, self.gradients, seed)
        if self.kind == "gradnorm":
            return GradNorm(base, self.power, self.rate, self.window, self.gradients)
        if self.kind == "uncertainty":
            return Uncertainty(base, self.rate)
        if self.kind == "dwa":
            return DynamicWeightAverage(base, self.temperature, self.window)
        if self.kind == "reference":
            return AgainstReference(base, self.power, self.window)
        return Fixed(base)
