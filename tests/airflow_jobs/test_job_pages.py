"""What a user sees of a job: Airflow's pages in a browser, and what nobody may see of it anywhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.airflow_jobs.conftest import BUCKET, PLANTED, StartJob
from tests.airflow_jobs.job_runs import JobRun
from tests.support.airflow_api import Airflow
from tests.support.airflow_processes import AirflowProcesses
from tests.support.job_cluster import JobCluster
from tests.support.waiting import wait_for

LINKS = {"Ray job", "Run folder"}
CONNECTION = "ray_made"


@pytest.fixture(scope="module")
def watched(start_job: StartJob, airflow: Airflow, cluster: JobCluster) -> Iterator[JobRun]:
    """A run with a connection that was made in the API, of whose ranks one has failed."""
    headers = f'{{"headers": {{"X-Proxy-Token": "{PLANTED["header"]}"}}}}'
    made = {"connection_id": CONNECTION, "conn_type": "ray", "host": cluster.url, "password": cluster.token}
    airflow.api.post("/connections", json=made | {"extra": headers}).raise_for_status()
    run = start_job("watched", gate=True, broken=[1])
    run.wait_until_deferred()
    yield run
    airflow.api.delete(f"/connections/{CONNECTION}")


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """A browser without a window."""
    if not shutil.which("chromedriver"):
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,2000"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield browser
    browser.quit()


def _secrets(cluster: JobCluster) -> list[str]:
    return [cluster.token, *PLANTED.values()]


def _text(browser: webdriver.Chrome) -> str:
    return str(browser.find_element(By.TAG_NAME, "body").text)


def _open(browser: webdriver.Chrome, airflow: Airflow, path: str, *expected: str) -> str:
    """Open a page, wait until it shows what is expected, and return its source."""
    browser.get(str(airflow.api.base_url.join(path)))
    try:
        wait_for(lambda: all(text in _text(browser) for text in expected), f"{expected} on {path}", 60)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{_text(browser)}") from None
    return str(browser.page_source)


def test_links_of_a_deferred_task_lead_to_the_job_and_the_run_folder(watched: JobRun) -> None:
    links = watched.task.links()
    assert set(links) == LINKS
    (job,) = watched.jobs()
    assert job["submission_id"] in (links["Ray job"] or "")
    assert (links["Run folder"] or "").startswith(f"https://console.aws.amazon.com/s3/buckets/{BUCKET}?")


def test_page_of_a_deferred_task_has_the_links_and_the_log(
    watched: JobRun, airflow: Airflow, browser: webdriver.Chrome
) -> None:
    page = f"{watched.task.path.replace('dagRuns', 'runs').replace('taskInstances', 'tasks')}"
    links = watched.task.links()
    _open(browser, airflow, page, "0/2 ranks")
    _open(browser, airflow, f"{page}/details", *LINKS)
    found = {link.text: link.get_attribute("href") for link in browser.find_elements(By.TAG_NAME, "a")}
    assert {name: found[name] for name in LINKS} == links


def test_log_has_failures_once_and_no_colour_codes(watched: JobRun) -> None:
    if (watched.folder / "gate").exists():
        watched.open_gate()
    assert watched.task.wait_for_end() == "failed"
    log = watched.task.log()
    assert "1 of 2 ranks failed" in log
    assert "\\u001b[" not in log
    assert log.count("shard 1 is broken") <= 3


def test_no_secret_is_on_any_page(
    watched: JobRun, airflow: Airflow, browser: webdriver.Chrome, cluster: JobCluster
) -> None:
    page = watched.task.path.replace("dagRuns", "runs").replace("taskInstances", "tasks")
    shown = {
        page: "job", f"{page}/rendered_templates": "logging_dir", f"{page}/xcom": "ray_job", f"{page}/details": "job",
        "/dags/watched/code": "job_steps", "/dags/watched/tasks/job": "job", "/connections": CONNECTION,
    }  # fmt: skip
    for path, expected in shown.items():
        source = _open(browser, airflow, path, expected)
        assert not [secret for secret in _secrets(cluster) if secret in source], path


def test_no_secret_is_in_any_answer_of_an_api(watched: JobRun, airflow: Airflow, cluster: JobCluster) -> None:
    watched.task.wait_for_end()
    entries = f"{watched.task.path}/xcomEntries"
    keys = [entry["key"] for entry in airflow.api.get(entries).json()["xcom_entries"]]
    dag, task, run = "/dags/watched", watched.task.path, watched.dag_run.path
    paths = [
        dag, f"{dag}/details", f"{dag}/tasks", f"{dag}/dagVersions", run, task, f"{task}/tries", f"{task}/links",
        f"{task}/logs/1?full_content=true", "/eventLogs?limit=1000", "/connections", f"/connections/{CONNECTION}",
        *(f"{entries}/{key}?deserialize=true" for key in keys), entries, "/config",
    ]  # fmt: skip
    answers = {path: airflow.api.get(path).text for path in paths}
    jobs = [job["submission_id"] for job in cluster.jobs()]
    ray_paths = ["/api/jobs/", *(f"/api/jobs/{job}/logs" for job in jobs), "/api/v0/actors?detail=true&limit=1000"]
    answers |= {path: cluster.api.get(path).text for path in ray_paths}
    assert not [path for path, text in answers.items() if any(secret in text for secret in _secrets(cluster))]


def test_no_secret_is_in_any_file_and_in_the_database(
    watched: JobRun, airflow: Airflow, stack: AirflowProcesses, cluster: JobCluster
) -> None:
    watched.task.wait_for_end()
    files = [path for folder in (airflow.home, watched.folder) for path in folder.rglob("*") if path.is_file()]
    secrets = [secret.encode() for secret in _secrets(cluster)]
    assert not [path for path in files if any(secret in path.read_bytes() for secret in secrets)]
    stored = stack.database.text()
    assert watched.names[1] in stored
    assert not [secret for secret in _secrets(cluster) if secret in stored]
