"""Links on the page of a task: to its job in Ray's dashboard, and to its run folder.

Airflow shows what is stored in the task's XCom of a link's key, while the task is deferred as well as afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

from airflow_provider.links.folder_urls import folder_page

__all__ = ["RayJobLink", "RunFolderLink"]


class _StoredLink(BaseOperatorLink):
    """A link that is what the operator has stored; Airflow asks for it again when the task defers or ends."""

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return the stored link, or "" if there is none, which Airflow does not show.

        Args:
            operator: the operator.
            ti_key: which task instance.
        """
        return str(XCom.get_value(ti_key=ti_key, key=self.xcom_key) or "")


class RayJobLink(_StoredLink):
    """The page of the job in Ray's dashboard."""

    @property
    def name(self) -> str:
        """The text of the button."""
        return "Ray job"

    def push(self, ti: Any, dashboard_link: str | None) -> None:
        """Store the link right after the submission.

        Args:
            ti: the task instance.
            dashboard_link: `JobStatus.dashboard_link`.
        """
        ti.xcom_push(key=self.xcom_key, value=_without_credentials(dashboard_link or ""))


class RunFolderLink(_StoredLink):
    """The page that shows the run folder: the console of Amazon S3 or Google Cloud Storage, or an http(s) URL."""

    @property
    def name(self) -> str:
        """The text of the button."""
        return "Run folder"

    def push(self, ti: Any, folder: str, storage_options: Mapping[str, Any] | None = None) -> None:
        """Store the link; "" where a browser can't open the folder.

        Args:
            ti: the task instance.
            folder: the path or URL of the run folder.
            storage_options: fsspec's options for it.
        """
        ti.xcom_push(key=self.xcom_key, value=folder_page(folder, storage_options))


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
