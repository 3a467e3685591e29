"""What the supported releases of Ray do not have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable

import ray
from ray import exceptions

from ray_pipeline_core.errors import ConfigError

try:
    from ray._private.grpc_utils import init_grpc_channel
except ImportError:  # before Ray 2.52
    from ray._private.utils import init_grpc_channel  # type: ignore[attr-defined,no-redef] # pyright: ignore

__all__ = ["AUTHENTICATION_ERRORS", "check_supported", "init_grpc_channel"]

AUTHENTICATION_ERRORS: tuple[type[BaseException], ...] = tuple(
    getattr(exceptions, name) for name in ("AuthenticationError",) if hasattr(exceptions, name)
)
"""Ray's errors about a missing or wrong token; empty before Ray 2.52, which knows no tokens."""

_OPTION_SINCE = {"label_selector": "2.49", "fallback_strategy": "2.51"}
"""The first release of Ray that has an actor option, for options that are younger than the oldest in use."""


def check_supported(options: Iterable[str], installed: str = ray.__version__) -> None:
    """Raise `ConfigError` if an actor option needs a newer release of Ray than the installed one.

    Args:
        options: the names of Ray actor options.
        installed: the version of Ray.
    """
    for option in options:
        since = _OPTION_SINCE.get(option)
        if since is not None and _release(installed) < _release(since):
            raise ConfigError(
                f"ray_remote_kwargs[{option!r}]: needs Ray {since} or newer, and Ray {installed} is installed; upgrade "
                "Ray on the driver and on all nodes, or remove the option"
            )


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
