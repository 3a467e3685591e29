"""A nightly refresh of flight-delay tables: one executor graph, run by a script, Airflow and Prefect."""
