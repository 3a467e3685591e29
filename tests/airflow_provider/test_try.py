from __future__ import annotations
from datetime import datetime, timezone


def test_try(run_dag, ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    from airflow.sdk import DAG
    from airflow_provider.operators.ray_pipeline import RayPipelineOperator

    with DAG("d", schedule=None) as dag:
        RayPipelineOperator(
            task_id="t",
            pipeline="tests.airflow_provider.steps:write_ranks",
            tasks="{{ 1+2 }}",
            workers=2,
            mem_per_cpu_gb=0.1,
            logging_dir=str(tmp_path / "{{ ds }}"),
            pipeline_kwargs={"folder": str(tmp_path / "out")},
        )
    import time

    t = time.time()
    dr = run_dag(dag, logical_date=datetime(2013, 1, 1, tzinfo=timezone.utc))
    print(dr, time.time() - t)
    ti = dr.get_task_instances()[0]
    print(ti.state, ti.xcom_pull(task_ids="t"))
    import os

    for r, _, f in os.walk(tmp_path):
        print(r, f)
    assert 0
