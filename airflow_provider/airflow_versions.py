"""Names that the supported releases of Airflow have in different modules."""

from __future__ import annotations

try:
    from airflow.sdk import conf
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowNotFoundException
except ImportError:  # before Airflow 3.2
    from airflow.configuration import conf  # type: ignore[assignment]
    from airflow.exceptions import (  # type: ignore[attr-defined,no-redef]
        AirflowException,  # pyright: ignore
        AirflowFailException,
        AirflowNotFoundException,  # pyright: ignore
    )
try:
    from airflow.sdk import BaseHook
    from airflow.sdk.log import mask_secret
except ImportError:  # before Airflow 3.1
    from airflow.hooks.base import BaseHook  # type: ignore[attr-defined,no-redef]
    from airflow.sdk.execution_time.secrets_masker import mask_secret  # type: ignore[no-redef]  # pyright: ignore

try:
    from airflow.sdk._shared.secrets_masker import redact
except ImportError:  # Airflow 3.0
    from airflow.sdk.execution_time.secrets_masker import redact  # type: ignore[no-redef]  # pyright: ignore

try:
    from airflow.sdk.exceptions import AirflowTaskTimeout, TaskDeferralTimeout
except ImportError:  # before Airflow 3.2
    from airflow.exceptions import (  # type: ignore[no-redef]
        AirflowTaskTimeout,  # pyright: ignore
        TaskDeferralTimeout,
    )

try:
    from airflow.sdk import RetryPolicy as AirflowRetryPolicy  # pyright: ignore
except ImportError:  # before Airflow 3.3
    AirflowRetryPolicy = ()  # type: ignore[assignment,misc]


__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowRetryPolicy",
    "AirflowTaskTimeout",
    "BaseHook",
    "TaskDeferralTimeout",
    "conf",
    "mask_secret",
    "redact",
]
