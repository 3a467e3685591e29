"""Secrets in texts: what is hidden, what stays, and how long it takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core.redaction import redact

S = "hunter2XyZ"

# A text with a secret, and what stays of it.
SECRET_TEXTS = [
    # URLs
    (f"postgres://anna:{S}@db/flights", "postgres://anna:***@db/flights"),
    (f"postgres://anna:p@{S}@db/flights", "postgres://anna:***@db/flights"),
    (f"postgres://anna:p/{S}@db/flights", "postgres://anna:***@db/flights"),
    (f"redis://:{S}@cache:6379/0", "redis://:***@cache:6379/0"),
    (f"mongodb+srv://u:{S}@c.mongodb.net/?retryWrites=true", "mongodb+srv://u:***@c.mongodb.net/?retryWrites=true"),
    (f"https://{S}@github.com/a/b", "https://***@github.com/a/b"),
    (
        f"pip install --index-url https://__token__:{S}@host/simple",
        "pip install --index-url https://__token__:***",
    ),
    (f"snowflake://anna:{S}@acme.eu-west-1/db?warehouse=x", "snowflake://anna:***@acme.eu-west-1/db?warehouse=x"),
    (f"jdbc:postgresql://h/db?user=anna&password={S}", "jdbc:postgresql://h/db?user=anna&password=***"),
    (f"jdbc:oracle:thin:anna/{S}@//h:1521/x", "jdbc:oracle:thin:anna/***"),
    (f"aws://AKIAX:{S}@/?region_name=eu", "?region_name=eu"),
    (f"PosixPath('s3:/anna:{S}@bucket/a')", "PosixPath('s3:/anna:***@bucket/a')"),
    (f"PosixPath('/data/https:/{S}@github.com')", "PosixPath('/data/https:/***@github.com')"),
    # queries
    (f"https://acme.blob.core.windows.net/c/b?sv=2020-08-04&sig={S}%3D&sp=r", "?sv=2020-08-04&sig=***&sp=r"),
    (f"https://b.s3.amazonaws.com/k?X-Amz-Credential={S}&X-Amz-Expires=60", "/k?X-Amz-Credential=***&X-Amz-Expires=60"),
    (f"https://b.s3.amazonaws.com/k?X-Amz-Signature={S}", "https://b.s3.amazonaws.com/k?X-Amz-Signature=***"),
    (f"https://storage.googleapis.com/b/k?Expires=1&Signature={S}", "/b/k?Expires=1&Signature=***"),
    (f"Max retries exceeded with url: /v1/x?key={S} (Caused by x)", "with url: /v1/x?key=*** (Caused by x)"),
    (f"https://acme.azurewebsites.net/api/f?code={S}==&a=1", "/api/f?code=***&a=1"),
    (f"http://h/?__extra__=%7B%22a%22%3A+%22{S}%22%7D", "http://h/?__extra__=***"),
    (f"https://h/?state=%22password%22%3A%22{S}%22", "https://h/?state=%22password%22%3A***"),
    # web hooks
    (f"https://hooks.slack.com/services/T00/B00/{S}", "https://hooks.slack.com/***"),
    (f"https://discord.com/api/webhooks/123/{S}", "https://discord.com/api/webhooks/***"),
    (f"https://acme.webhook.office.com/webhookb2/{S}@x/IncomingWebhook", "https://acme.webhook.office.com/***"),
    (f"https://api.telegram.org/bot12:{S}/sendMessage", "https://api.telegram.org/bot***/sendMessage"),
    (
        f"HTTPSConnectionPool(host='hooks.slack.com'): url: /services/T00/B00/{S} (Caused by x)",
        "url: *** (Caused by x)",
    ),
    (f"https://h/cb#access_token={S}&state=1", "https://h/cb#access_token=***&state=1"),
    (f"mongodb://u:{S}@h1:27017,h2:27017/db?authSource=admin", "mongodb://u:***@h1:27017,h2:27017/db?authSource=admin"),
    # connection strings
    (
        f"DefaultEndpointsProtocol=https;AccountKey={S}/a==;EndpointSuffix=y",
        "AccountKey=***;EndpointSuffix=y",
    ),
    (f"Endpoint=sb://ns/;SharedAccessKeyName=Root;SharedAccessKey={S}=", "SharedAccessKey=***"),
    (f"Server=db;Uid=a;Pwd={S};Timeout=3", "Server=db;Uid=a;Pwd=***;Timeout=3"),
    (f"PWD={{{S};x}};UID=a", "PWD=***;UID=a"),
    (f"host=db user=anna password='{S} x' dbname=x", "host=db user=anna password=*** dbname=x"),
    (
        f"can't reach anna:{S}@acme.snowflakecomputing.com/db",
        "anna:***@acme.snowflakecomputing.com/db",
    ),
    (f'PlainLoginModule required username="anna" password="{S}";', 'username="anna" password=***;'),
    # names and values
    (f"Client(api_key='{S}', n=3)", "Client(api_key=***, n=3)"),
    (f"Client(auth=('anna', '{S}'), n=3)", "Client(auth=***, n=3)"),
    (f"{{'password': b'{S}', 'n': 3}}", "{'password': ***, 'n': 3}"),
    (f'{{"private_key": "{S}", "client_email": "a@b.c"}}', '{"private_key": ***, "client_email": "a@b.c"}'),
    (f'{{\\"password\\": \\"{S}\\", \\"n\\": 3}}', '\\"n\\": 3}'),
    (f"password=abc,{S}", "password=***"),
    (f"token={S}, rest", "token=***, rest"),
    (f"export HF_TOKEN={S} x", "export HF_TOKEN=*** x"),
    (f"environ['DB_PASSWORD'] = '{S}' # x", "environ['DB_PASSWORD'] = *** # x"),
    (f"secret => '{S}'", "secret => ***"),
    (f"PIN ok, password: {S}", "PIN ok, password: ***"),
    (f"invalid token: token=1{S}", "invalid token: ***"),
    ("password=1234567 n=3", "password=*** n=3"),
    (
        f"1 validation error\npassword\n  Too short [type=x, input_value='{S}', input_type=str]",
        "input_value=***",
    ),
    (
        f"<Error><AWSAccessKeyId>{S}</AWSAccessKeyId><Code>x</Code></Error>",
        "<AWSAccessKeyId>***</AWSAccessKeyId><Code>x",
    ),
    (f'AIRFLOW_CONN_X=\'{{"conn_type": "pg", "password": "{S}"}}\'', '"conn_type": "pg", "password": ***}'),
    (f"(x.OperationalError) failed [parameters: {{'token': '{S}', 'n': 3}}]", "[parameters: {'token': ***, 'n': 3}]"),
    (f"databricks://token:{S}@h?http_path=x", "databricks://token:***"),
    (f"/data/token={S}/day=3/part-0.parquet", "/data/token=***/day=3/part-0.parquet"),
    (f"/data/token='{S}/{S}'/day=3", "/data/token=***/day=3"),
    # headers
    (f"curl -H 'X-Api-Key: {S}' https://h", "curl -H 'X-Api-Key: ***' https://h"),
    (f"Authorization: Basic {S}= x", "Authorization: *** x"),
    (f"sent Bearer {S}", "sent Bearer ***"),
    (
        f"Authorization: AWS4-HMAC-SHA256 Credential=x, SignedHeaders=host, Signature={S}",
        "SignedHeaders=host, Signature=***",
    ),
    (f"X-Vault-Token: {S}\r\nHost: h", "X-Vault-Token: ***\r\nHost: h"),
    (f"Cookie: a=b; sid={S}\nHost: h", "Cookie: ***\nHost: h"),
    (f"('x-api-key', '{S}')", "('x-api-key', ***)"),
    (f"[(b'authorization', b'Bearer {S}')]", "[(b'authorization', ***)]"),
    (f"headers=[['x-api-key','{S}']]", "headers=[['x-api-key',***]]"),
    (f'[["Accept", "json"], ["Authorization", "{S}"]]', '[["Accept", "json"], ["Authorization", ***]]'),
    # sentences
    (f"invalid api key: {S}", "invalid api key: ***"),
    (f"Incorrect API key provided: {S}. You can", "Incorrect API key provided: *** You can"),
    (f"Access key {S} is invalid", "Access key *** is invalid"),
    # commands
    (f"mysql --password {S} -h db", "mysql --password *** -h db"),
    (f"Command '['mysql', '--password', '{S}']' returned 1", "Command '['mysql', '--password', ***]' returned 1"),
    (f"docker run --env NAME={S} image", "docker run --env NAME=*** image"),
    (f"docker run -e NAME={S} image", "docker run -e NAME=*** image"),
    (f"['--env', 'NAME={S}']", "['--env', 'NAME=***']"),
    (f"curl -u anna:{S} https://h", "curl -u anna:*** https://h"),
    (f"sshpass -p {S} ssh h", "sshpass -p *** ssh h"),
    (f"ALTER ROLE anna PASSWORD '{S}' VALID", "ALTER ROLE anna PASSWORD *** VALID"),
    (f"machine h login anna password {S}", "machine h login anna password ***"),
    (f"['curl', '-u', 'anna:{S}']", "['curl', '-u', 'anna:***']"),
    # forms
    (f"-----BEGIN RSA PRIVATE KEY-----\n{S}\n-----END RSA PRIVATE KEY----- x", "*** x"),
    (f"x -----BEGIN PRIVATE KEY-----\\n{S}", "x ***"),
    ("key AKIAIOSFODNN7EXAMPLE used", "key *** used"),
    ("got ghp_0123456789abcdefABCDEF0123456789abcd.", "got ***."),
    ("got github_pat_11ABCDEFG0123456789_abcdef", "got ***"),
    ("got hf_abcdefghijklmnopqrstuvwxyzABCDEF", "got ***"),
    ("got xoxb-123456789012-abcdef", "got ***"),
    ("got glpat-abcdefghij1234567890", "got ***"),
    ("got sk-proj-abc123def456ghi789", "got ***"),
    ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefg", "got ***"),
    ("got dapi0123456789abcdef0123456789abcdef", "got ***"),
    ("got pnu_0123456789abcdef0123456789abcdef0123", "got ***"),
    ("got AIzaSyA-0123456789abcdefghijklmnopqrstu", "got ***"),
]
HARMLESS_TEXTS = [
    "/data/a:b@c",
    "registry.io/app:1.2@sha256:abcdef0123456789",
    "git@github.com:a/b.git",
    "user@host",
    "C:/data/a@b",
    "mailto:anna@x.org",
    "http://host:8080/run@home",
    "http://[::1]:8265/x",
    "s3://bucket/user@home/what?",
    "sftp://user@host/run",
    "https://example.org/a?page=2&keyword=x&codes=1",
    "max_tokens=100, tokens: 5000",
    "tokenizer='gpt2'",
    "pad_token='<pad>'",
    "key='a'",
    "{'keys': ['a', 'b'], 'sort_key': 'day'}",
    "['token', 'label']",
    "password=None, token: null, auth=False",
    "The token is invalid",
    'connection to server at "db", port 5432 failed: FATAL: password authentication failed for user "anna"',
    "<token>, <session> and <b>bold</b>",
    "Basic authentication failed: bearer authentication required",
    "task-1234567890abcdef",
    "risk-abc123def456",
    "hf_home, hf_transfer, hf_hub",
    "2024-01-01 12:30:00 | INFO",
    "rank 3: error after 1 attempt(s): ValueError: halfway through (log: /runs/1/logs/task_00003.log)",
    "session_length=3; passage: text; monkey=1; author: anna",
    "kafka://h1:9092,h2:9092/t",
    "sed -e s=a=b=",
    "The API key is invalid, the access key provided has expired",
    "s3://b/session_id=12/pass=3/part-0.parquet",
    "{token: string}, struct<token: string, n: int64>",
    "tokens=['a', 'b'], low_pass=100",
]


@pytest.mark.parametrize(("text", "rest"), SECRET_TEXTS)
def test_secret_is_hidden_and_the_rest_stays(text: str, rest: str) -> None:
    hidden = redact(text)
    assert S not in hidden
    assert hidden != text
    assert rest in hidden
    assert redact(hidden) == hidden, "what is hidden stays as it is"


@pytest.mark.parametrize("text", HARMLESS_TEXTS)
def test_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("around", ["{}", "{}\n", "at {} and elsewhere", "<{}>", "\n{}\n", "x" * 300 + " {}"])
def test_secret_is_hidden_wherever_it_stands(around: str) -> None:
    assert [text for text, _ in SECRET_TEXTS if S in redact(around.format(text))] == []


@given(st.text())
def test_redaction_of_a_redacted_text_changes_nothing(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("position", [0, 50, 80, 90, 95, 99, 100, 101, 5_000])
@pytest.mark.parametrize(
    "secret", [f"postgres://anna:{S * 5}@db", f"password='{S * 5}'", f"-----BEGIN KEY-----\n{S * 300}"]
)
def test_cut_text_has_no_half_of_a_secret(secret: str, position: int) -> None:
    cut = redact("x" * position + " " + secret + " y" * 10_000, 100)
    assert len(cut) <= 100
    assert S[:4] not in cut


def test_text_that_is_short_enough_is_not_cut() -> None:
    assert redact("x" * 100, 100) == "x" * 100
    assert redact("x" * 101, 100) == "x" * 100


@pytest.mark.parametrize("secret", [f"-----BEGIN KEY-----{S * 300}-----END KEY-----", f"https://h/a?token={S * 500}"])
@pytest.mark.parametrize("count", [1, 5])
def test_text_that_is_cut_keeps_what_stands_beside_long_secrets(secret: str, count: int) -> None:
    cut = redact(f"can't read {f'{secret} and ' * count}" + "it is expired " * 1_000, 2_000)
    assert len(cut) == 2_000
    assert cut.startswith("can't read ")
    assert "it is expired" in cut
    assert S not in cut


def test_time_is_linear_where_secrets_shorten_the_text() -> None:
    assert redact("password=x " * 100_000, 2_000).startswith("password=*** ")
    assert redact(f"token={'x' * 1_000_000}", 2_000) == "token=***"


PIECES = [
    *("x", "a b ", "a:", "a=", "://", "://a:b@", "a@b:", "u:p@", "1:", "x-y.", "token", "=", "\\", '\\"', " \t"),
    *("password=", "password='", "password=(", "password=a,", "password \n", "?key=", "'a', ", "('token', "),
    *(
        "--password ",
        "api key x1",
        "api key: ",
        "[['token', ",
        "-e A=",
        "-u a:",
        "Bearer ",
        "cookie: ",
        "http://h/webhook/",
    ),
    *("-----BEGIN A-----", "eyJabc.", "hf_aaa", "sk-", "AKIA"),
]


@pytest.mark.parametrize("piece", PIECES)
def test_time_is_linear_in_the_length(piece: str) -> None:
    # What looks back and forth at every character takes hours here, and the test's own limit ends it.
    redact(piece * (200_000 // len(piece)))
