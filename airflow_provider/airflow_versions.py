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

__all__ = ["AirflowException", "AirflowFailException", "conf"]
