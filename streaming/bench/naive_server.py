"""The baseline of `serve.http`: the naive network behind FastAPI and pydantic, as most would write
it first. Takes the same requests as `freshet serve`, and logs nothing."""

from __future__ import annotations

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from streaming.bench.naive import NaiveMMoE
from streaming.bench.train import naive
from streaming.bench.train_work import DENSE, FIELDS, TASKS, Work

USER, ITEM = 0, 1


class Rank(BaseModel):
    user: int
    candidates: list[int]
    context: dict[str, float]
    candidate_fields: dict[str, list[float]]
    k: int = 10


class Impression(BaseModel):
    item: int
    score: float
    scores: dict[str, float]


class Ranking(BaseModel):
    impressions: list[Impression]


def application(model: NaiveMMoE, items: int) -> FastAPI:
    app = FastAPI()

    def column(asked: Rank, name: str) -> torch.Tensor:
        if name in asked.context:
            return torch.full((len(asked.candidates),), asked.context[name])
        return torch.tensor(asked.candidate_fields[name])

    @app.post("/v1/rank")
    def rank(asked: Rank) -> Ranking:
        ids = []
        for field in range(FIELDS):
            if field == USER:
                ids.append(torch.full((len(asked.candidates),), asked.user))
            elif field == ITEM:
                ids.append(torch.tensor(asked.candidates))
            else:
                ids.append(column(asked, f"f{field}").long())
        dense = [column(asked, f"x{i}") for i in range(DENSE)]
        with torch.no_grad():
            logits = model(torch.stack(ids, 1) % items, torch.stack(dense, 1))
            scores = logits.sigmoid()
        combined = scores.mean(1)
        best = combined.topk(min(asked.k, len(asked.candidates))).indices.tolist()
        return Ranking(
            impressions=[
                Impression(
                    item=asked.candidates[i],
                    score=float(combined[i]),
                    scores={f"t{t}": float(scores[i, t]) for t in range(TASKS)},
                )
                for i in best
            ]
        )

    return app


def serve(port: int) -> None:
    torch.set_num_threads(1)
    work = Work(7_000, 1, 1)
    app = application(naive(work, "cpu").eval(), work.items_of_field)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)
