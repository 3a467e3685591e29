"""The script of a job: runs on the cluster as `__main__` of the package that was uploaded, beside the payload.

It needs the standard library alone, and Python 3.8, until it has made this package importable.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, Optional  # noqa: UP035 - older versions read this as well

FOLDER = Path(__file__).parent
LEAST_PYTHON = (3, 10)
RAY_VARIABLE = "RAY_PIPELINE_PYTHON_OF_RAY"


def main() -> int:
    """Run the job, and return the exit code of the process."""
    header = json.loads((FOLDER / "payload.json").read_text())
    _follow_ray()
    problem = _problem_with_python(header)
    if problem:
        return _refuse(header, "PipelineLoadError", problem)
    # Before Ray is imported, which reads some of them.
    os.environ.update(header["env_vars"])
    os.environ.setdefault("RAY_LOG_TO_DRIVER", "1" if header["forwards_logs"] else "0")
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    if importlib.util.find_spec("ray") is None:
        text = (
            f"the command `python` on the node of the driver is {sys.executable}, which has no Ray; put the Python of "
            "the cluster first in the PATH of the processes that run `ray start`"
        )
        return _refuse(header, "ClusterError", text)
    _make_importable()
    from ray_pipeline_core.jobs.driver_run import run_job

    return run_job(FOLDER, header)


def _problem_with_python(header: Dict[str, Any]) -> Optional[str]:  # noqa: UP006, UP045
    own, theirs = sys.version_info[:2], tuple(header["python"])
    if own < LEAST_PYTHON:
        return f"the cluster runs Python {_dotted(own)}, and ray-pipeline needs {_dotted(LEAST_PYTHON)} or newer"
    if own != theirs and header["needs_python"]["executor"]:
        return (
            f"the job was submitted from Python {_dotted(theirs)} and the cluster runs Python {_dotted(own)}, which "
            "can't read the functions in it; use the same version on both sides, or pass the pipeline as "
            "'package.module:factory' with a module that the cluster has"
        )
    return None


def _dotted(version: Any) -> str:
    return ".".join(map(str, version))


def _refuse(header: Dict[str, Any], kind: str, message: str) -> int:  # noqa: UP006
    print(f"{kind}: {message}", flush=True)
    error = json.dumps({"type": kind, "message": message, "result": None, "attributes": {}})
    print(f"@ray-pipeline:{header['nonce']} error 1/1 {error}", flush=True)
    return 1


def _follow_ray() -> None:
    """Go on with the Python that Ray itself runs with, where the command `python` is another one."""
    if importlib.util.find_spec("ray") is not None or RAY_VARIABLE in os.environ:
        return
    python = _python_of(os.getppid())
    if python is not None:
        os.environ[RAY_VARIABLE] = python
        os.execv(python, [python, "-m", FOLDER.name])


def _python_of(pid: int) -> Optional[str]:  # noqa: UP045
    """Return the Python whose Ray a process has loaded, of the environment that the library is in."""
    library = "/ray/_raylet.so"
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        packages = next(line.split(None, 5)[5] for line in lines if line.endswith(library))[: -len(library)]
    except (OSError, StopIteration, IndexError):
        return None
    python = Path(packages).parents[2] / "bin" / "python"
    return str(python) if python.exists() else None


def _make_importable() -> None:
    """Let this package be that of the submitter; what it imports comes with it where the node lacks it."""
    library = FOLDER / "lib"
    sys.path.insert(0, str(library / "ray_pipeline_core"))
    from ray_pipeline_core.code_archive import PACKAGE, REQUIRED

    sys.path[1:1] = [str(library / name) for name, version in REQUIRED.items() if not _fits(name, version)]
    # Sources of the submitter's: where something has been imported by an older release, it is imported anew.
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    importlib.invalidate_caches()


def _fits(name: str, version: str) -> bool:
    from packaging.specifiers import SpecifierSet

    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec(name) is not None and SpecifierSet(version).contains(found, prereleases=True)


if __name__ == "__main__":
    sys.exit(main())
