"""A nightly refresh of flight-delay tables: one graph of executors, run by a script, Airflow and Prefect."""
