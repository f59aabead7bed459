"""Variants of an application: what a comparison runs over one log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from streaming.application import Application

_NEXT = re.compile(r",(?=[A-Za-z_][\w.]*=)")


@dataclass(frozen=True)
class Variant:
    """Applications run as one: usually one, of which `settings` tell how it differs. Where they are
    several, each has tasks of its own, and what they serve is put together."""

    name: str
    apps: tuple[Application, ...]
    settings: tuple[str, ...] = ()
    about: str = ""


def given(app: Application, words: Sequence[str]) -> list[Variant]:
    """Variants of `app` from words like `fast:trainer.dense.lr=0.05,publish_every=20`; a name that
    comes again gets more settings.

    Raises ValueError naming the word, or the setting.
    """
    settings: dict[str, list[str]] = {}
    for word in words:
        name, colon, changes = word.partition(":")
        if not colon or not name or "=" in name:
            raise ValueError(
                f"variant {word!r}: expected name:setting=value, like fast:trainer.dense.lr=0.05"
            )
        settings.setdefault(name, []).extend(_NEXT.split(changes))
    return [
        Variant(name, (app.with_settings(changed),), tuple(changed))
        for name, changed in settings.items()
    ]


def named(apps: Sequence[Application], words: Sequence[str]) -> list[Variant]:
    """Applications as variants, by their own names, or `words` where two have the same."""
    names = [app.name for app in apps]
    if len(set(names)) < len(names):
        names = list(words)
    return [Variant(name, (app,)) for name, app in zip(names, apps, strict=True)]


def check(variants: Sequence[Variant]) -> None:
    """Raises ValueError where there are not two or more, of different names, with a common task."""
    names = [v.name for v in variants]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"variant {twice[0]!r} is there twice: expected different names")
    if len(variants) < 2:
        raise ValueError(
            "nothing to compare with: give --variant name:setting=value, --ablation, "
            "or a second application"
        )
    known = _kinds(variants[0])
    for variant in variants[1:]:
        if not known.items() & _kinds(variant).items():
            raise ValueError(
                f"variant {variant.name!r} has no task of {variants[0].name!r}: "
                f"expected one of {', '.join(known)}, of the same kind"
            )


def _kinds(variant: Variant) -> dict[str, str]:
    return {task.name: task.kind for app in variant.apps for task in app.schema.tasks}
