"""The README's example of a job."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.jobs.conftest import TOKEN
from tests.support.ray_processes import Head

README = Path(__file__).parents[2] / "README.md"


def test_example_runs(head: Head, tmp_path: Path) -> None:
    found = dict(re.findall(r"<!-- (\S+\.py) -->\n```python\n(.*?)```", README.read_text(), re.DOTALL))
    for name in ("squares.py", "squares_job.py"):
        code = found[name].replace("/tmp/", f"{tmp_path}/").replace("http://localhost:8265", head.dashboard)
        (tmp_path / name).write_text(code)
    done = subprocess.run(
        [sys.executable, "squares_job.py"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "RAY_AUTH_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "4/4 ranks completed" in done.stdout
