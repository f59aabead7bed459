"""Who may ask: tokens, as `Authorization: Bearer TOKEN`."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from starlette.requests import Request

from streaming.sections import NONE, Secret
from streaming.serve.problems import Problem


@dataclass(frozen=True)
class Access:
    """`token` is asked for by what ranks, learns or explains, `admin` by what administers: of that
    there is nothing where it is not set."""

    token: Secret = NONE
    admin: Secret = NONE

    def client(self, request: Request) -> None:
        """Raises Problem where the request may not rank."""
        if self.token and not (_has(request, self.token) or _has(request, self.admin)):
            raise Problem(401, "no-token", "expected Authorization: Bearer, with serve.token")

    def administrator(self, request: Request) -> None:
        """Raises Problem where the request may not administer."""
        if not self.admin:
            raise Problem(403, "forbidden", "there is no such call without serve.admin_token")
        if not _has(request, self.admin):
            raise Problem(401, "no-token", "expected Authorization: Bearer, with serve.admin_token")


def _has(request: Request, token: Secret) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode(), token.reveal().encode())
    return bool(token) and scheme.lower() == "bearer" and right
