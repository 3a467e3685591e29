"""What travels with a job: the executor and all that its run needs, pickled, and the script that reads it."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray_pipeline_core.code_archive import shipped_files
from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.driver.planning import RunOptions
from ray_pipeline_core.errors import PipelineLoadError
from ray_pipeline_core.executor import RayPipelineExecutor, topological_order
from ray_pipeline_core.jobs.packages import LocalFiles, Package, zipped
from ray_pipeline_core.pickling import dumps_with_code, is_sent_by_value, unpicklable_part
from ray_pipeline_core.redaction import cause_to_show, get_logger, known_secrets

logger = get_logger(__name__)

MODULE = "ray_pipeline_job"
"""The package with payload and script, as it is called on the cluster."""
STOP_WAIT_S = 30
"""How long Ray waits for a driver that was asked to stop, in seconds, before it kills it."""
_STOP_WAIT_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"


@dataclass(frozen=True)
class JobRequest:
    """What a job is to run.

    Attributes:
        executor: the executor, the last of its graph.
        options: what this run changes for it.
        runtime_env: the runtime environment of driver and workers.
        lease_wait_s: how long the driver waits for a run folder that another run has, in seconds.
        submission_id: the id of the job.
        nonce: the number of the job, by which records in its log are known.
    """

    executor: RayPipelineExecutor
    options: RunOptions
    runtime_env: Mapping[str, Any]
    lease_wait_s: float
    submission_id: str
    nonce: str


@dataclass(frozen=True)
class JobFiles:
    """What is uploaded for a job, and its runtime environment.

    Attributes:
        runtime_env: what Ray is told, without secrets.
        packages: what must be uploaded before.
    """

    runtime_env: Mapping[str, Any]
    packages: tuple[Package, ...]


def pack_job(request: JobRequest) -> JobFiles:
    """Pack a job.

    Raises:
        PipelineLoadError: the executor can't be pickled.
        ConfigError: what a runtime environment names can't be uploaded.
    """
    files = LocalFiles()
    own = request.executor.config.resources.ray_options.get("runtime_env") or {}
    job_env = files.replaced({**own, **request.runtime_env})
    variables = {**(own.get("env_vars") or {}), **(request.runtime_env.get("env_vars") or {})}
    executor = _portable(request.executor, request.runtime_env.get("env_vars") or {}, files)
    options = replace(request.options, job=request.submission_id)
    package = Package.of_zip(zipped(_driver_files(request, executor, options, variables)))
    job_env["py_modules"] = [package.uri, *(job_env.get("py_modules") or [])]
    # What users set may be secret, and Ray shows it to everybody: the driver sets it.
    job_env["env_vars"] = {_STOP_WAIT_VARIABLE: str(variables.get(_STOP_WAIT_VARIABLE, STOP_WAIT_S))}
    return JobFiles(job_env, (package, *files.packages.values()))


def _portable(last: RayPipelineExecutor, variables: Mapping[str, str], files: LocalFiles) -> RayPipelineExecutor:
    """Return a copy of an executor and of all it depends on, with URIs in place of local folders."""
    copies: dict[int, RayPipelineExecutor] = {}
    for node in topological_order(last):
        depends = node.depends
        if isinstance(depends, list):
            depends = [copies.get(id(parent), parent) for parent in depends]
        elif depends is not None:
            depends = copies.get(id(depends), depends)
        copied = copy.copy(node)
        config = _with_environment(node.config, variables, files)
        vars(copied).update(depends=depends, config=config, completed_result=None, address=None)
        copies[id(node)] = copied
    return copies[id(last)]


def _with_environment(config: RunConfig, variables: Mapping[str, str], files: LocalFiles) -> RunConfig:
    own = config.resources.ray_options.get("runtime_env") or {}
    merged = {**variables, **(own.get("env_vars") or {})}
    environment = files.replaced({**own, **({"env_vars": merged} if merged else {})})
    options = {key: value for key, value in (config.ray_remote_kwargs or {}).items() if key != "runtime_env"}
    return replace(config, runtime_env=environment or None, ray_remote_kwargs=options or None)


def _driver_files(
    request: JobRequest, executor: RayPipelineExecutor, options: RunOptions, variables: Mapping[str, str]
) -> list[tuple[str, bytes, int]]:
    pickles = _pickles(executor, options)
    header = {
        "python": list(sys.version_info[:2]),
        "nonce": request.nonce,
        "submission_id": request.submission_id,
        "needs_python": {name: has_code for name, (_, has_code) in pickles.items()},
        "env_vars": {str(name): str(value) for name, value in variables.items()},
        "lease_wait_s": request.lease_wait_s,
        "secrets": sorted(known_secrets.values),
        "forwards_logs": any(node.log_first for node in topological_order(executor)),
    }
    script = Path(__file__).with_name("driver_script.py").read_bytes()
    files = [("__init__.py", b"", 0o644), ("__main__.py", script, 0o644)]
    files += [("payload.json", json.dumps(header).encode(), 0o600)]
    files += [(f"{name}.pickle", content, 0o600) for name, (content, _) in pickles.items()]
    files += [(f"lib/{name}", content, 0o644) for name, content in shipped_files()]
    return [(f"{MODULE}/{name}", content, mode) for name, content, mode in files]


def _pickles(executor: RayPipelineExecutor, options: RunOptions) -> dict[str, tuple[bytes, bool]]:
    """Return the pickled executor and factories, and whether Python's own code is in them, which has its version.

    The executor is pickled by reference, and also with the code of the user's modules if that makes a difference: the
    cluster takes it only if it lacks such a module.
    """
    own = _own_modules()
    pickles = {"executor": _pickled((executor, options), ())}
    by_value = _pickled((executor, options), own)
    if by_value[0] != pickles["executor"][0]:
        pickles["executor_with_code"] = by_value
    factories = _factories(executor)
    if factories:
        pickles["factories"] = dumps_with_code(factories, _own_modules())  # some were imported just now
    return pickles


def _pickled(value: tuple[RayPipelineExecutor, RunOptions], by_value: tuple[str, ...]) -> tuple[bytes, bool]:
    try:
        return dumps_with_code(value, by_value)
    except Exception as error:  # noqa: BLE001 - it is the cause of another error
        part, cause = next(filter(None, map(_unpicklable_part, _named_parts(*value))), ("executor", error))
        raise PipelineLoadError(
            f"{part} can't be pickled, so the job can't be sent to the cluster: {type(cause).__name__}: {cause}; "
            "create files, locks and clients when a step is called, or pass the pipeline as 'package.module:factory'"
        ) from cause_to_show(error)


def _named_parts(executor: RayPipelineExecutor, options: RunOptions) -> list[tuple[str, Any]]:
    names = ("pipeline", "pipeline_kwargs", "inputs", "observers", "logging_dir", "config")
    nodes = topological_order(executor)
    return [*((name, getattr(node, name)) for node in nodes for name in names), ("options", options)]


def _unpicklable_part(named: tuple[str, Any]) -> tuple[str, Exception] | None:
    return unpicklable_part(named[1], named[0])


def _own_modules() -> tuple[str, ...]:
    names = [name for name in list(sys.modules) if name != "__main__" and not name.startswith("_")]
    return tuple(name for name in names if is_sent_by_value(name))


def _factories(executor: RayPipelineExecutor) -> dict[str, Any]:
    """Return the function, or what it is an attribute of, of each pipeline that names one in a module of the user's."""
    paths = {node.pipeline for node in topological_order(executor) if isinstance(node.pipeline, str)}
    found = {path: _own_factory(path) for path in sorted(paths)}
    return {path: factory for path, factory in found.items() if factory is not None}


def _own_factory(path: str) -> Any:
    """Return the factory, if its module is the user's own and can be imported here; it may be on the cluster alone."""
    module, _, attribute = path.partition(":")
    first = attribute.partition(".")[0]
    try:
        if module not in sys.modules and not _is_own(module.partition(".")[0]):
            return None
        factory = getattr(importlib.import_module(module), first)
        if not is_sent_by_value(module):
            return None
        dumps_with_code(factory, (*_own_modules(), module))
        return factory
    except (Exception, SystemExit) as error:  # noqa: BLE001 - importing a module runs any code
        logger.warning(
            "pipeline=%r is not sent with the job, so the cluster must have it: here it raises %s: %s",
            path,
            type(error).__name__,
            error,
        )
        return None


def _is_own(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    if spec is None:
        return False
    # A folder without __init__.py has no origin.
    places = [spec.origin] if spec.origin else spec.submodule_search_locations or ()
    installed = {"site-packages", "dist-packages"}
    return bool(places) and not any(installed & set(Path(place).parts) for place in places)
