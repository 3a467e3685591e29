"""Names that the supported releases of Airflow have in different modules."""

from __future__ import annotations

try:
    from airflow.sdk import conf
    from airflow.sdk.exceptions import AirflowException, AirflowFailException
except ImportError:  # before Airflow 3.2
    from airflow.configuration import conf  # type: ignore[assignment]
    from airflow.exceptions import (  # type: ignore[attr-defined,no-redef]
        AirflowException,  # pyright: ignore
        AirflowFailException,
    )

try:
    from airflow.sdk._shared.secrets_masker import redact
except ImportError:  # Airflow 3.0
    from airflow.sdk.execution_time.secrets_masker import redact  # type: ignore[no-redef]

try:
    from airflow.sdk import RetryPolicy as AirflowRetryPolicy
except ImportError:  # before Airflow 3.3
    AirflowRetryPolicy = ()  # type: ignore[assignment,misc]


__all__ = ["AirflowException", "AirflowFailException", "AirflowRetryPolicy", "conf", "redact"]
