"""The operators of the Airflow provider."""
