"""Who holds the lease, as its key in Redis says."""

from __future__ import annotations

import json


def by(holder: bytes) -> str:
    """Who that is, for people."""
    try:
        says = json.loads(holder)
        return f"pid {says['pid']} on {says['host']}, since {says['since']}"
    except (ValueError, TypeError, KeyError):
        return repr(holder)
