"""`make faults ROUNDS=50`: so many rounds over KuaiRand, each killed once at random, on a real
broker (KAFKA=host:port names one). The last line says what was lost or doubled; 1 if anything was.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import Outcome, faults, random_aim

from streaming.bundled import bundled_redis

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """Its `host:port`."""
    if address := os.environ.get("KAFKA"):
        yield address
        return
    line = [sys.executable, str(ROOT / "infra" / "kafka" / "run"), "--folder", str(folder)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip() or sys.exit("no Kafka broker")
        finally:
            process.terminate()


def main() -> int:
    wanted = argparse.ArgumentParser(description=__doc__)
    wanted.add_argument("--rounds", type=int, default=50)
    wanted.add_argument("--seed", type=int, default=random.randrange(10**6))
    wanted.add_argument("--rows", type=int, help="The first rows only.")
    wanted.add_argument("--log", type=Path, required=True)
    options = wanted.parse_args()
    print(f"seed {options.seed}", flush=True)
    draw, outcomes = random.Random(options.seed), []
    with (
        tempfile.TemporaryDirectory(prefix="freshet-faults-") as name,
        broker(Path(name) / "kafka") as address,
        bundled_redis(Path(name) / "redis") as server,
        faults(address, server.url, Path(name), options.log, options.rows) as bench,
    ):
        for n in range(1, options.rounds + 1):
            outcome = Outcome(0, True, 0, 0)
            while not outcome.kills and outcome.right:  # it came to its end before its moment
                aim = random_aim(draw, bench)
                outcome = bench.round([aim])
            where = aim if isinstance(aim, str) else f"{aim:.2f} s"
            print(
                f"round {n}, killed at {where}: {'right' if outcome.right else outcome}", flush=True
            )
            outcomes.append(outcome)
    equal = sum(o.equal for o in outcomes)
    lost, doubled = sum(o.lost for o in outcomes), sum(o.doubled for o in outcomes)
    print(f"rounds {len(outcomes)}, hashes equal {equal}, lost {lost}, doubled {doubled}")
    return 0 if all(o.right for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
