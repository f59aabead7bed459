"""Census-income, the benchmark of the MMoE paper (Ma et al. 2018): two pairs of tasks over people.

`app` asks who earns over 50,000 and who never married, `education` who went to college and who
never married; what answers a task outright is no field of it. The survey has no time: a person
comes each second, in the order of the file, and the answers a second after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from streaming.application import Application, Field, Schema, Shown, Task, Told

SECOND = 1_000
START_MS = 788_918_400_000  # 1995, the year before the survey's last

IDS = (
    "occupation_code", "class_of_worker", "industry_code", "enrolled_edu_last_wk",
    "major_industry", "major_occupation", "race", "hispanic_origin", "sex", "labor_union",
    "reason_unemployment", "full_part_time", "tax_filer_status", "region_prev_res",
    "state_prev_res", "household_family_stat", "household_summary", "mig_msa", "mig_reg",
    "mig_within_reg", "live_here_1y", "mig_sunbelt", "family_under_18", "father_birth_country",
    "mother_birth_country", "self_birth_country", "citizenship", "own_business",
    "fill_veteran_q", "veterans_benefits", "year",
)  # fmt: skip
DENSE = ("age", "weeks_worked", "num_persons_worked_for")
AMOUNTS = ("wage_per_hour", "capital_gains", "capital_losses", "dividends")
ANSWERS = {
    "income": "y_income_50k",
    "college": "y_edu_college",
    "never_married": "y_never_married",
}


def _schema(tasks: tuple[str, ...], more: tuple[str, ...]) -> Schema:
    return Schema(
        fields=(
            *(Field(name, "id") for name in (*IDS, *more)),
            *(Field(name, "dense") for name in (*DENSE, *AMOUNTS)),
        ),
        tasks=tuple(Task(name, "binary", 2 * SECOND) for name in tasks),
        user="occupation_code",  # nobody comes twice: this spreads people over partitions
    )


def _rows(tasks: tuple[str, ...], more: tuple[str, ...]) -> Callable[..., Shown]:
    def rows(row: Mapping[str, Any], tables: Mapping[str, Any]) -> Shown:
        number = row["row_number"]
        ids = {name: row[name] if row[name] is not None else "?" for name in (*IDS, *more)}
        amounts = {name: math.log1p(row[name]) for name in AMOUNTS}
        return Shown(
            id=number,
            time_ms=START_MS + number * SECOND,
            fields={**ids, **{name: row[name] for name in DENSE}, **amounts},
            told=[Told(name, row[ANSWERS[name]], SECOND) for name in tasks],
        )

    return rows


def _application(name: str, tasks: tuple[str, ...], more: tuple[str, ...]) -> Application:
    return Application(name=name, schema=_schema(tasks, more), rows=_rows(tasks, more))


app = _application("census", ("income", "never_married"), ("education",))
education = _application("census-education", ("college", "never_married"), ("income",))
