"""The hook of connections to Ray clusters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from airflow_provider.airflow_versions import AirflowNotFoundException, BaseHook, mask_secret
from airflow_provider.hooks.dashboard_urls import dashboard_url
from ray_pipeline_core import ClusterConnection, ConfigError, RayPipelineError

__all__ = ["RayHook"]

_TRUTH: Mapping[str, bool] = {
    **dict.fromkeys(("true", "yes", "on", "1", ""), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


class RayHook(BaseHook):
    """Reads an Airflow connection of the type `ray`.

    Its host is the URL of Ray's dashboard, or a host beside a port and, in schema, "http" or "https"; a host alone
    means http and port 8265. Its password is the token. Its extra may have `verify`, which is true (the default),
    false, or the path of a CA bundle, and `headers`, a JSON object of further headers.

    Args:
        ray_conn_id: the id of the connection.
    """

    conn_name_attr: ClassVar[str] = "ray_conn_id"
    default_conn_name: ClassVar[str] = "ray_default"
    conn_type: ClassVar[str] = "ray"
    hook_name: ClassVar[str] = "Ray"

    def __init__(self, ray_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.ray_conn_id = ray_conn_id

    def connection(self) -> ClusterConnection:
        """Return the cluster; token and headers are masked in Airflow's logs from then on. Nothing is sent to it.

        Call it in a thread where an event loop runs, as in a trigger: Airflow is asked for the connection.

        Raises:
            ConfigError: there is no such connection, or one of its fields is wrong.
        """
        try:
            return _cluster(self._stored())
        except ConfigError as error:
            raise ConfigError(f"connection {self.ray_conn_id!r}: {error}") from None

    def get_conn(self) -> ClusterConnection:
        """Return the same as `connection`, by the name that Airflow's hooks have for it."""
        return self.connection()

    def test_connection(self) -> tuple[bool, str]:
        """Ask the cluster for its version; Airflow's page of connections has a button for this.

        Returns:
            Whether it has answered as a Ray cluster does, and a sentence with the version or with what is wrong.
        """
        try:
            info = self.connection().check()
        except RayPipelineError as error:
            return False, str(error)
        return True, f"Ray {info.ray_version} answers and takes jobs"

    def _stored(self) -> Any:
        try:
            return self.get_connection(self.ray_conn_id)
        except AirflowNotFoundException:
            raise ConfigError(
                "Airflow has no such connection; add it with the connection type ray, or correct ray_conn_id"
            ) from None


def _cluster(stored: Any) -> ClusterConnection:
    extra = _object("extra", stored.extra or "{}")
    headers = _headers(extra.get("headers"))
    for secret in filter(None, (stored.password, *headers.values())):
        mask_secret(secret)
    return ClusterConnection(
        url=dashboard_url(stored.host, stored.port, stored.schema),
        token=stored.password or None,
        verify=_verify(extra.get("verify")),
        headers=headers or None,
    )


def _object(field: str, value: Any) -> dict[str, Any]:
    """Return the JSON object that a field is, or that its text stands for; no message has what may be a secret."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise ConfigError(f"{field} must be a JSON object")
    return parsed


def _headers(value: Any) -> dict[str, str]:
    headers = _object("headers in extra", value or {})
    if not all(isinstance(one, str) for one in headers.values()):
        raise ConfigError("headers in extra must have a string for each header")
    return headers


def _verify(value: Any) -> bool | str:
    if value is None or isinstance(value, bool):
        return value is not False
    if not isinstance(value, str):
        raise ConfigError("verify in extra must be true, false, or the path of a CA bundle")
    return _TRUTH.get(value.strip().lower(), value.strip())
