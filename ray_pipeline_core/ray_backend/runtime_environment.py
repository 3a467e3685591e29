"""Prepares a runtime environment for workers: local folders are uploaded, and most variables are kept from Ray."""

from __future__ import annotations

import inspect
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ray._private.runtime_env.packaging import pin_runtime_env_uri
from ray._private.runtime_env.py_modules import upload_py_modules_if_needed
from ray._private.runtime_env.working_dir import upload_working_dir_if_needed
from ray.exceptions import RuntimeEnvSetupError

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.errors import ClusterError, ConfigError
from ray_pipeline_core.ray_backend.ray_messages import reason_of
from ray_pipeline_core.redaction import cause_to_show, get_logger

logger = get_logger(__name__)

RENEW_INTERVAL_S = 300.0
"""Time between two renewals of what was uploaded, in seconds; Ray drops after 600 s what no job has."""
_INSTALLERS = frozenset({"pip", "uv", "conda"})
_READ_EARLY = re.compile(
    r"(?:LD_|DYLD_|GLIBC_|MALLOC_|PYTHON|LANG|LC_|RAY_(?!PIPELINE_)|GRPC_|PROTOCOL_BUFFERS_|OTEL_|OMP_|MKL_|OPENBLAS_|BLIS_|"
    r"NUMEXPR_|CUDA_|NVIDIA_|HIP_|ROCR_|ASCEND_|HABANA_|NEURON_|TPU_|ONEAPI_)|(?:PATH|HOME|TMPDIR|TZ)$"
)
"""The variables that count only from the start of a process, or that Ray itself reads or sets before a pipeline."""


class RuntimeEnvironment:
    """The runtime environment of a run's workers.

    Args:
        resources: the resources of a worker, as the user gave them.
    """

    def __init__(self, resources: RankResources) -> None:
        self._resources = resources
        self._renewed_s = 0.0
        self._ready = resources
        self._variables: Mapping[str, str] = {}

    @property
    def is_due(self) -> bool:
        """Whether it is time for `renew`."""
        return self._renewed_s > 0 and time.monotonic() - self._renewed_s > RENEW_INTERVAL_S

    @property
    def resources(self) -> RankResources:
        """The resources of a worker, with the addresses of what was uploaded, and without `variables`."""
        return self._ready

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment variables that the workers set themselves."""
        return self._variables

    def renew(self) -> None:
        """Keep what was uploaded in the cluster, for workers that start later; the files are not read again."""
        self._renewed_s = time.monotonic()
        environment = self._ready.ray_options["runtime_env"]
        uris = [environment.get("working_dir"), *(environment.get("py_modules") or ())]
        for uri in uris:
            if isinstance(uri, str) and uri.startswith("gcs://"):
                try:
                    pin_runtime_env_uri(uri)
                except Exception:
                    logger.debug("could not keep %s in the cluster", uri, exc_info=True)

    def upload(self) -> None:
        """Upload what is local, unless the cluster has it; all workers of the run get that state of it.

        Raises:
            ConfigError: a folder or file is missing, or can't be uploaded because of what it is.
            ClusterError: the cluster does not take it.
        """
        environment = dict(self._resources.ray_options.get("runtime_env") or {})
        if not environment:
            return
        try:
            with tempfile.TemporaryDirectory(prefix="ray-pipeline-") as scratch:
                for upload in (upload_py_modules_if_needed, upload_working_dir_if_needed):
                    environment = _call(upload, environment, scratch)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"runtime_env with {', '.join(self._resources.ray_options['runtime_env'])}: can't be sent to the "
                f"cluster: {reason_of(error)}; correct what it names"
            ) from cause_to_show(error)
        except (RuntimeEnvSetupError, OSError) as error:
            raise ClusterError(
                f"runtime_env: the cluster does not take its files: {reason_of(error)}; make them smaller with "
                "runtime_env={'excludes': [...]}, or put them where the nodes can read them and pass the URI"
            ) from cause_to_show(error)
        environment.pop("excludes", None)  # it was for the upload
        environment, self._variables = _without_variables(environment)
        self._ready = replace(self._resources, ray_options={**self._resources.ray_options, "runtime_env": environment})
        self._renewed_s = time.monotonic()


def _without_variables(environment: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return an environment without the variables that workers can set themselves, and these.

    Ray's API shows an actor's environment to whoever asks. What installs packages may need any variable.
    """
    variables = environment.get("env_vars")
    if not isinstance(variables, Mapping) or _INSTALLERS & environment.keys():
        return environment, {}
    early = {name: value for name, value in variables.items() if _is_read_early(name, value)}
    rest = {key: value for key, value in environment.items() if key != "env_vars"}
    late = {name: value for name, value in variables.items() if name not in early}
    return {**rest, "env_vars": early} if early else rest, late


def _is_read_early(name: str, value: str) -> bool:
    # Ray replaces ${NAME} by what the node has.
    return _READ_EARLY.match(name) is not None or "${" in value


def _call(upload: Callable[..., dict[str, Any]], environment: Mapping[str, Any], scratch: str) -> dict[str, Any]:
    options: dict[str, Any] = {"scratch_dir": scratch}
    if "include_gitignore" in inspect.signature(upload).parameters:  # not in all releases of Ray
        options["include_gitignore"] = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    return upload(dict(environment), **options)
