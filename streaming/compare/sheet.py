"""A page that stands alone: one HTML file, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark;
  --plane: #f6f7f9; --card: #ffffff; --line: #e3e6ea; --grid: #eceef1;
  --ink: #14181f; --soft: #4b5563; --faint: #6b7280; --drift: #c7352f; --good: #0f8a64;
  --c0: #2a78d6; --c1: #b4610a; --c2: #0f8a64; --c3: #7a4fc4; --c4: #b3326f; --c5: #5b6472; }
@media (prefers-color-scheme: dark) { :root {
  --plane: #101318; --card: #181c23; --line: #2a303a; --grid: #242a33;
  --ink: #f1f3f6; --soft: #b6bdc8; --faint: #939cab; --drift: #ff7a70; --good: #3fc396;
  --c0: #5fa3f3; --c1: #f0a048; --c2: #3fc396; --c3: #b08cf0; --c4: #f080b4; --c5: #a5afbd; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--plane); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 20px; }
h1 { font-size: 21px; margin: 0 0 4px; } h2 { font-size: 15px; margin: 0 0 8px; }
p { margin: 0 0 10px; color: var(--soft); }
.cards { display: grid; column-gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 540px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; overflow-x: auto;
  margin-bottom: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 12px 4px 0; border-top: 1px solid var(--grid);
  vertical-align: top; white-space: nowrap; }
th { color: var(--faint); font-weight: 500; border-top: 0; }
.good { color: var(--good); } .bad { color: var(--drift); }
summary { cursor: pointer; color: var(--soft); margin-top: 8px; }
svg { width: 100%; height: auto; display: block; margin-top: 8px; }
svg text { fill: var(--faint); font-size: 11px; }
svg .name { text-anchor: end; fill: var(--ink); font-size: 12.5px; }
svg .tick { text-anchor: end; } svg .when { text-anchor: middle; }
svg .grid { stroke: var(--grid); } svg .zero { stroke: var(--faint); }
svg .mark { stroke: var(--drift); stroke-dasharray: 3 3; }
svg .range { stroke-width: 2.5; stroke-linecap: round; } svg .line { fill: none; stroke-width: 2; }
svg .band { opacity: .14; }
""" + "\n".join(
    f".c{n} .range, .c{n} .line {{ stroke: var(--c{n}); }} "
    f".c{n} .dot, .c{n} .band {{ fill: var(--c{n}); }} i.c{n} {{ color: var(--c{n}); }}"
    for n in range(6)
)


def sheet(title: str, about: str, body: Sequence[str]) -> str:
    """The whole file. `body` is HTML, the other two are text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1><p>{escape(about)}</p>{''.join(body)}</main></body></html>\n"
    )


def card(title: str, *inside: str) -> str:
    """A card of HTML under a title, which is text."""
    return f'<section class="card"><h2>{escape(title)}</h2>{"".join(inside)}</section>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`head` is text, cells are HTML."""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    lines = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{lines}</table>"
