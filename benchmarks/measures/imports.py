"""The import of the core, which each process pays that defines a pipeline."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.support.table import Row

_CODE = """
import time
started_s = time.perf_counter()
from ray_pipeline_core import RayPipelineExecutor
print(time.perf_counter() - started_s)
"""
_TIMES = 5


def _seconds_of_import() -> float:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(full: bool) -> list[Row]:
    seconds = min(_seconds_of_import() for _ in range(_TIMES))
    return [Row("import of RayPipelineExecutor", seconds, "s", 0.3, f"fresh interpreter, fastest of {_TIMES}")]
