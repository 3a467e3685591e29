"""A nightly refresh over a folder that grows: one chain, run by a script, Airflow and Prefect."""
