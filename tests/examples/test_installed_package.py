"""The package, installed from its folder as the README says, runs the README's script."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.core.test_documentation import ROOT, examples
from tests.support.environments import install

INSTALLED = ("ray_pipeline_core", "airflow_provider", "prefect_integration", "pyproject.toml", "README.md", "LICENSE")


def test_script_runs_with_the_package_alone(tmp_path: Path) -> None:
    clone, project = tmp_path / "clone", tmp_path / "project"
    project.mkdir()
    for name in INSTALLED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        clone.mkdir(exist_ok=True)
        copy(ROOT / name, clone / name)
    python = install(tmp_path / "venv", [str(clone)])
    (project / "squares.py").write_text(examples()["squares.py"].replace('"/tmp/', f'"{tmp_path}/'))

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "squares.py"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "script: 4/4 ranks completed (0 by earlier runs), 0 failed" in done.stdout
    assert (tmp_path / "squares" / "3.txt").read_text().split()[:2] == ["9", "49"]
