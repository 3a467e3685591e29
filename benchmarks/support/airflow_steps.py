"""Steps of the DAGs that the benchmarks give to an Airflow."""

from __future__ import annotations

import time
from collections.abc import Callable

Step = Callable[[object, int, int], None]


def no_op() -> list[Step]:
    return [lambda data, rank, world_size: None]


def sleep() -> list[Step]:
    return [lambda data, rank, world_size: time.sleep(120)]
