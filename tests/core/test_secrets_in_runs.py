"""A run with secrets in every place that a user can write to: none is left in its folder or in what it prints."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_pipeline_core import PipelineStep, RayPipelineError, RayPipelineExecutor, RunObserver, RunPlan, RunResult
from ray_pipeline_core.testing import run_in_process

# How secrets are written: each makes a value of a random word, which must not be found anywhere afterwards.
FORMS: Mapping[str, Callable[[str], str]] = {
    "user info": lambda word: f"postgresql://anna:{word}@db.example.com:5432/flights?sslmode=require",
    "token as user": lambda word: f"https://{word}@git.example.com/a/b.git",
    "presigned S3": lambda word: f"https://b.s3.amazonaws.com/k?X-Amz-Expires=60&X-Amz-Signature={word}",
    "presigned GCS": lambda word: f"https://storage.googleapis.com/b/k?Expires=1&Signature={word}",
    "SAS": lambda word: f"https://acme.blob.core.windows.net/c/k?sv=2024-01-01&sr=b&sig={word}%3D&se=2030-01-01",
    "query key": lambda word: f"https://api.example.com/v1/rows?page=1&key={word}",
    "Slack": lambda word: f"https://hooks.slack.com/services/T00000000/B00000000/{word}",
    "Azure": lambda word: f"DefaultEndpointsProtocol=https;AccountName=acme;AccountKey={word}==;EndpointSuffix=x.net",
    "libpq": lambda word: f"host=db user=anna password={word} dbname=flights",
    "Snowflake": lambda word: f"snowflake://anna:{word}@acme.eu-west-1/db/public?warehouse=wh",
    "Kafka": lambda word: f'PlainLoginModule required username="anna" password="{word}";',
    "basic": lambda word: f"Authorization: Basic {word}",
    "bearer": lambda word: f"Authorization: Bearer {word}",
    "header": lambda word: f"{{'X-Api-Key': '{word}', 'Accept': 'json'}}",
    "Airflow": lambda word: f"aws://AKIA:{word}@/?region_name=eu-west-1",
    "bare": lambda word: f"anna:{word}@acme.snowflakecomputing.com",
    "command": lambda word: f"mysql --password {word} -h db",
    "environment": lambda word: f"docker run --env NAME={word} image",
    "PEM": lambda word: f"-----BEGIN PRIVATE KEY-----\n{word}\n-----END PRIVATE KEY-----",
    "GitHub": lambda word: f"ghp_{word}",
    "Hugging Face": lambda word: f"hf_{word}",
    "Databricks": lambda word: f"DATABRICKS_TOKEN=dapi{word}",
    "GitLab": lambda word: f"glpat-{word}",
    "JWT": lambda word: f"eyJhbGciOiJIUzI1NiJ9.eyJ{word}.{word}",
}
SECRET_NAMES = (
    "password",
    "creds",
    "dsn",
    "github_pat",
    "jwt",
    "signing_key",
    "hmac",
    "session",
    "clientSecret",
    "API-KEY",
)
words = st.text("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789", min_size=20, max_size=40).filter(
    lambda word: any(map(str.isdigit, word)) and word[0].isalpha()
)
texts = st.builds(lambda form, word: (FORMS[form](word), word), st.sampled_from(sorted(FORMS)), words)


@st.composite
def values(draw: st.DrawFn) -> tuple[Any, list[str]]:
    """A value as steps and factories get it, with secrets somewhere in it, and the words that must not be found."""
    text, word = draw(texts)
    name, under_name = draw(st.sampled_from(SECRET_NAMES)), draw(words)
    shapes: list[Any] = [
        text,
        text.encode(),
        [text],
        ("rows", text, 3),
        {text},
        {text: 1},
        {"deep": [{"er": (text,)}]},
        {name: under_name},
        {name: under_name.encode()},
        {name: {"inner": under_name}},
        [(name, under_name), ("Accept", "json")],
        ["run", f"--{name}", under_name],
        ["docker", "run", "-e", f"NAME={under_name}"],
        {"runtime_env": {"env_vars": {"ANY": under_name}}},
        [{"name": name, "value": under_name}],
        Client(text),
        [Client(f"Client({name}={under_name!r}, n=3)")],
        Path(text),
    ]
    return draw(st.sampled_from(range(len(shapes))).map(shapes.__getitem__)), [word, under_name]


class Client:
    """Tells its secrets in its `repr`."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<Client {self.text}>"


class Load(PipelineStep):
    """Has secrets in its attributes and in its name, and raises one."""

    type = "Reader"

    def __init__(self, name: str, error: str | None, attributes: Mapping[str, Any]) -> None:
        vars(self).update(attributes)
        self.name = name
        self.error = error

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        if self.error is not None and rank == 1:
            try:
                raise OSError(self.error)
            except OSError as error:
                raise ValueError(f"can't read rows: {self.error}") from error
        yield rank


class Loud(RunObserver):
    """Shows what it hears, and fails with a secret."""

    def __init__(self, heard: list[str], error: str) -> None:
        self.heard = heard
        self.error = error

    def on_run_started(self, plan: RunPlan) -> None:
        self.heard.append(f"{plan} {plan.to_dict()}")
        raise RuntimeError(self.error)

    def on_run_finished(self, result: RunResult) -> None:
        self.heard.append(f"{result} {result.to_dict()}")


def make_steps(**arguments: Any) -> list[Any]:
    return [Load(arguments.pop("name"), arguments.pop("error"), arguments)]


def failing_factory(**arguments: Any) -> list[Any]:
    raise ConnectionError(arguments["error"])


@contextlib.contextmanager
def everything_printed() -> Iterator[io.StringIO]:
    """Catch standard output and error, and what is logged, as the end of a script would show it."""
    printed = io.StringIO()
    handler = logging.StreamHandler(printed)
    logging.getLogger().addHandler(handler)
    logging.getLogger("ray_pipeline_core").setLevel(logging.DEBUG)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield printed
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("ray_pipeline_core").setLevel(logging.NOTSET)


def run_and_collect(folder: Path, printed: io.StringIO, **parameters: Any) -> None:
    """Construct and run an executor, and print what a user sees of an error."""
    try:
        run_in_process(RayPipelineExecutor(logging_dir=str(folder), tasks=2, **parameters))
    except RayPipelineError as error:
        printed.write("".join(traceback.TracebackException.from_exception(error, lookup_lines=False).format()))
        result = getattr(error, "result", None)
        printed.write(f"{result} {result.to_dict()}" if result else "")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def found(words: list[str], folder: Path, printed: str) -> list[tuple[str, str]]:
    seen = {**files_of(folder), "printed": printed.encode()}
    return [(name, word) for name, content in seen.items() for word in words if word.encode() in content]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    attributes=st.dictionaries(st.sampled_from(["a", "b", "c"]), values(), min_size=1),
    named=st.tuples(st.sampled_from(SECRET_NAMES), words),
    name=texts,
    error=texts,
    observer=texts,
    options=texts,
)
def test_no_secret_is_in_any_file_or_line(
    attributes: dict[str, Any], named: Any, name: Any, error: Any, observer: Any, options: Any
) -> None:
    secrets = [word for _, planted in attributes.values() for word in planted]
    secrets += [named[1], name[1], error[1], observer[1], options[1]]
    values_of = {key: value for key, (value, _) in attributes.items()} | {named[0]: named[1]}
    heard: list[str] = []
    runtime_env = {"env_vars": {"ANY": options[1]}, "pip": [options[0]], "container": {"run_options": [options[0]]}}
    common: dict[str, Any] = {
        "name": name[0],
        "observers": [Loud(heard, observer[0])],
        "ray_remote_kwargs": {"runtime_env": runtime_env},
    }
    with tempfile.TemporaryDirectory() as temporary, everything_printed() as printed:
        folder = Path(temporary)
        steps = [Load(f"rows of {name[0]}", error[0], values_of)]
        run_and_collect(folder / "steps", printed, pipeline=steps, **common)
        changed = [Load(f"rows of {name[0]}", None, values_of | {"a": options[0]})]
        run_and_collect(folder / "steps", printed, pipeline=changed, **common)
        kwargs = {"error": error[0], **values_of, "name": "rows"}
        for factory in ("make_steps", "failing_factory"):
            run_and_collect(
                folder / factory, printed, pipeline=f"{__name__}:{factory}", pipeline_kwargs=kwargs, **common
            )
        assert (folder / "steps/result.json").is_file(), "it ran"
        assert found(secrets, folder, printed.getvalue() + "".join(heard)) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"logging_dir": ("s3://bucket/run", {"password": "WORD"}, 3)},
        {"logging_dir": "nosuch://anna:WORD@host/run"},
        {"logging_dir": ("s3://bucket/run", {"endpoint_url": "https://anna:WORD@host", 3: "WORD"})},
        {"ray_remote_kwargs": {"runtime_env": {"env_vars": {"ANY": "WORD"}}, 3: 1}},
        {"ray_remote_kwargs": {"name": "postgres://anna:WORD@host"}},
        {"ray_remote_kwargs": {"resources": {"token": "WORD"}}},
        {"pipeline": [print], "pipeline_kwargs": {"creds": "WORD"}},
        {"pipeline": ["postgres://anna:WORD@host"]},
        {"pipeline": "postgres://anna:WORD@host"},
        {"tasks": {"password": "WORD"}},
        {"name": ["password=WORD"]},
        {"address": [("token", "WORD")]},
        {"retry": {"api_key": "WORD"}},
        {"depends": [Client("password=WORD")]},
        {"observers": "password=WORD"},
        {"placement_strategy": b"password=WORD"},
    ],
)
def test_message_about_a_wrong_argument_has_no_secret(arguments: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RayPipelineError) as caught:
        RayPipelineExecutor(**{"pipeline": [print], "logging_dir": str(tmp_path)} | arguments)
    assert "WORD" not in "".join(traceback.format_exception_only(caught.value))
    assert "WORD" not in str(caught.value.__cause__)
