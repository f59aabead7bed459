"""What the doctor finds, and how bad it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FINE, WARNING, ERROR = "fine", "warning", "error"
EXIT = {FINE: 0, WARNING: 1, ERROR: 2}


@dataclass(frozen=True)
class Finding:
    """`says` is what was found about `about`; `do` is what to do, where it is not fine."""

    about: str
    severity: str
    says: str
    do: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def exit_code(findings: list[Finding]) -> int:
    """0 where all is fine, 1 with a warning, 2 with an error."""
    return max((EXIT[finding.severity] for finding in findings), default=0)


def text(findings: list[Finding]) -> str:
    """One line each, and what to do below it."""
    width = max((len(finding.about) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.severity:<7}  {finding.about:<{width}}  {finding.says}")
        if finding.do:
            lines.append(f"{'':<7}  {'':<{width}}  -> {finding.do}")
    return "\n".join(lines)
