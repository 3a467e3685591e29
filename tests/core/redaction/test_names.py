"""Which names are taken for those of secrets."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ray_pipeline_core.redaction import is_secret

SECRET_NAMES = """
refresh_tokens
password DB_PASSWD passphrase pwd client_secret X-Api-Key pass db_pw session_cookie sas token hf_token accessToken
api_key apikey aws_access_key_id account_key connection_string credentials private_key auth Authorization
X-Amz-Signature creds cred dsn pat github_pat jwt signing_key encryption_key hmac hmac_key session session_id
PGPASSWORD MYSQL_PWD AccountKey SharedAccessKey sasl.password sasl_plain_password spark.hadoop.fs.s3a.secret.key
SLACK_WEBHOOK_URL webhook PREFECT_API_KEY fs.azure.account.key.acme.dfs.core.windows.net DATABRICKS_TOKEN HF_TOKEN
id_token refresh_token tokens secrets master_key ssh_key AIRFLOW__CORE__FERNET_KEY apiKey APIKey private-key
basic_auth X-Amz-Security-Token access_tokens api_keys dbPassword sessionid sas_token key_password --password
conn_str _password __token azure_devops_pat blob_sas my_pat webhook_path db_pass user_session storage_key oauth_token
"""
HARMLESS_NAMES = """
query_tokens tokens_file token_dtype token_to_id return_tokens
tokenizer tokenizer_name tokenized max_tokens n_tokens max_new_tokens pad_token eos_token special_tokens stop_tokens
token_ids decoder_start_token_id keys key key_field primary_key sort_key partition_key join_keys hash_key keyword
keyboard author authors author_column authority passage passes bypass passthrough pass_rate compass passenger monkey
session_length session_timeout pattern path path_pattern patience dispatch signal design assign significant
signature_field secretary password_field ClusterAuthError credits accounts access private_subnet service_name
auth_method api_version auth_errors token_count least token_pattern token_overlap token_window token_separator
token_dim token_dropout token_col token_filter token_file token_id token_class token_counter token_embedding
token_func token_bits token_path first_token
blank_token fim_token file_pat glob_pat low_pass n_pass band_pass input_sas signature_func n_sig cookies_path auth_url
oauth_token_url crypto_key
"""


@pytest.mark.parametrize("name", re.findall(r"\S+", SECRET_NAMES))
def test_name_of_a_secret_is_known(name: str) -> None:
    assert is_secret(name, "hunter2")


@pytest.mark.parametrize("name", re.findall(r"\S+", HARMLESS_NAMES))
def test_name_of_something_else_is_not_taken_for_a_secret(name: str) -> None:
    assert not is_secret(name, "hunter2")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("password", 1234, True),
        ("secret_key", 1234, True),
        ("session", 1234, True),
        ("tokens", 1234, False),
        ("pass", 3, False),
        ("pass", 1234, True),
        ("db_pass", 123456, True),
        ("session_id", 123456, False),
        ("token_weight", 5, False),
        ("token", 5, True),
        ("token_secret", 5, True),
        ("tokens", ["a", "b"], False),
        ("access_tokens", ["a", "b"], True),
        ("use_auth", True, False),
        ("token", None, False),
        ("auth", 0.5, False),
        ("password", b"x", True),
        ("credentials", object(), True),
    ],
)
def test_value_decides_where_a_number_may_be_a_count(name: str, value: Any, expected: bool) -> None:
    assert is_secret(name, value) is expected
