"""Hides the secrets in texts: messages, tracebacks, URLs, the `repr` of values."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from ray_pipeline_core.redaction.known import HIDDEN, known_secrets
from ray_pipeline_core.redaction.names import is_secret, is_secret_name

_MAX_CACHED_LENGTH = 200
_SEARCHED_BEYOND_LIMIT = 4_000  # longer than any secret that a cut could break in two, so that half of it were left

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{1,50}-----.*?(?:-----END [A-Z0-9 ]{1,50}-----|\Z)", re.DOTALL)

# Tokens that say by their prefix what they are, as the vendors' documents and the rules of GitHub's secret scanning,
# detect-secrets and gitleaks have them.
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"gh[oprsu]_[A-Za-z0-9]{8,}|github_pat_\w{8,}"  # GitHub
    r"|gl(?:pat|ptt|dt|rt|cbt|ft|imt|agent|soat|oas)-[\w-]{8,}"  # GitLab
    r"|hf_(?:[A-Za-z0-9]{20,}|(?=[A-Za-z]{0,40}\d)[A-Za-z0-9]{8,})|api_org_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|xox[a-z]-[\w-]{8,}|xapp-[\w-]{8,}"  # Slack
    r"|A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{12,}"  # AWS
    r"|sk-(?:(?=[A-Za-z_-]{0,40}\d)[\w-]{8,}|[A-Za-z]{20,})|[rs]k_(?:live|test)_\w{8,}|whsec_\w{8,}"  # OpenAI, Stripe
    r"|AIza[\w-]{20,}|ya29\.[\w-]{8,}|GOCSPX-[\w-]{8,}"  # Google
    r"|eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*){0,3}|eyJ[\w-]{40,}"  # JSON Web Tokens
    r"|dapi[0-9a-f]{16,}(?:-\d)?|dkea[0-9a-f]{16,}"  # Databricks
    r"|pn[bu]_[A-Za-z0-9]{8,}"  # Prefect
    r"|pypi-[\w-]{16,}|npm_[A-Za-z0-9]{16,}|dckr_(?:pat|oat)_[\w-]{8,}"  # registries
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|SK[0-9a-f]{32}|key-[0-9a-f]{32}"  # SendGrid, Twilio, Mailgun
    r"|do[opr]_v1_[0-9a-f]{16,}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{16,}"  # DigitalOcean, Shopify
    r"|hv[bsr]\.[\w-]{16,}|gAAAAA[\w-]{40,}=*|AGE-SECRET-KEY-1[0-9A-Z]{16,}"  # Vault, Fernet, age
    r"|gl(?:sa|c)_[\w=+/-]{16,}|lin_api_\w{16,}|ntn_[A-Za-z0-9]{16,}|secret_[A-Za-z0-9]{32,}"  # Grafana, Linear, Notion
    r"|r8_[A-Za-z0-9]{16,}|gsk_[A-Za-z0-9]{16,}|xai-[A-Za-z0-9]{16,}|pplx-[A-Za-z0-9]{16,}"  # model providers
    r"|\d{8,10}:AA[\w-]{30,}"  # Telegram
    r"|pat[A-Za-z0-9]{14}\.[0-9a-f]{16,}"  # Airtable
    r"|1//0[\w-]{20,}"  # Google's refresh tokens
    r"|/services/T\w{2,}/B\w{2,}/\w{6,}|/api/webhooks/\d+/[\w-]{6,}|/webhookb2/[\w@/-]{6,}"
    r"|/bot\d+:[\w-]{6,}"  # paths of web hooks
    r"|[\w~.-]{3}[78]Q~[\w~.-]{30,}"  # Entra ID
    r")"
)
_CREDENTIALS_OF_HEADER = re.compile(
    r"\b((?:[Bb]earer|BEARER|[Bb]asic|BASIC)\s{1,5})(?=[\w.~+/-]{0,200}[\dA-Z=])[\w.~+/=-]{6,}(?![\w=])"
)
_COOKIES = re.compile(r"\b((?:set-)?cookie:[ \t]*)[^\r\n'\"]+", re.IGNORECASE)

_WEB = ("http", "https")
# `pathlib` makes one slash of two.
_URL = re.compile(r"(://?)([^\s'\"<>]+)")
_WEBHOOK = re.compile(
    r"((?:hooks\.[^/]+|[^/]*webhook[^/]*|events\.pagerduty\.com/integration)/|[^?#]*?/webhook\w*/)[^?#]+"
    r"|(api\.telegram\.org/bot)[^/?#]+",
    re.IGNORECASE,
)
_PORT = re.compile(r"(?:\]|^[^:\[]*):\d*$")
# anna:password@host outside of URLs; an image's digest (name:tag@sha256:…) is no password.
_USER_AND_PASSWORD = re.compile(
    r"(?<![\w:/@.+%-])(?!mailto:)([A-Za-z_][\w.+%-]{0,60}:)[^\s'\"@/:]{1,200}@(?=[\w\[])(?!sha\d+:)"
)

_PLAIN = r"""[^\s,;&(){}\[\]'"<>\\]"""
# What follows a secret's name: a quoted string, {…}, (…), or anything up to a character that ends a value.
_VALUE = re.compile(
    # The repeats are unrolled, so that a long value takes no memory.
    r"""[bru]{0,2}'[^'\\]*(?:\\.[^'\\]*)*'?|[bru]{0,2}"[^"\\]*(?:\\.[^"\\]*)*"?"""
    r"""|\\+["'][^"'\\]*(?:\\+[^"'\\][^"'\\]*)*(?:\\+["'])?"""
    r"""|\{[^{}]*\}|\([^()]*\)|\[[^\[\]]*\]"""
    r"""|(?:(?:bearer|basic|token|digest|negotiate)[ ]+)?"""
    rf"""{_PLAIN}+(?:(?:\\.|[,;&](?![\s'"]|[\w.\-]+[=:]|$)){_PLAIN}*)*""",
    re.IGNORECASE | re.DOTALL,
)
# The value of a folder such as /day=1/, of data that is partitioned in the way of Hive.
_FOLDER = re.compile(r"""[^\s,;&(){}\[\]'"<>\\/]+(?=/)""")
# name=value, 'name': value, "name" => value, environ['name'] = value; `name://` starts a URL.
_NAME = re.compile(r"""(?<![\w.-])(?P<name>[\w.-]+)(?:\\*['"]|%22)?\]?[ \t]*(?:(?!://)[=:]{1,3}>?|%3[aAdD])[ \t]*""")
_OPTION = re.compile(r"""(?<![\w.-])(?P<name>--?[A-Za-z][\w.-]*)(?:\\*['"],[ \t]*|[ \t]+)(?!-)""")
# Only a list in a list is a pair: ['token', 'label'] are columns.
_PAIR = re.compile(r"""(?:\(|(?:(?<=\[)|(?<=\],)|(?<=\],[ ]))\[)[ \t]*b?(\\*['"])(?P<name>[\w.-]+)\1[ \t]*,[ \t]*""")
_XML = re.compile(r"<(?P<name>[\w.-]{1,100})>(?=[^<>]{1,4000}</(?P=name)>)")
# The errors of pydantic have the name of a field in the line before its value.
_VALIDATION = re.compile(r"^(?P<name>[\w.-]+)\n[^\n]{0,500}?\binput_value=", re.MULTILINE)
# What is always secret: a password in SQL or of a command's user.
_PASSWORD = re.compile(
    r"""\b(?:password|identified[ ]+by)[ \t]+(?=['"])|\bsshpass[ \t]+-p[ \t]*"""
    r"""|\blogin[ \t]+\S{1,100}[ \t]+password[ \t]+"""
    r"""|\bjdbc:oracle:\w{1,10}:[\w.-]{1,100}/(?=\S{1,200}@)"""
    r"""|(?<![\w-])(?:-u|--user|--proxy-user)(?:=|[ \t]+|\\*['"],[ \t]*)\\*['"]?[\w.@-]{1,100}:""",
    re.IGNORECASE,
)
# "Incorrect API key provided: …", "Access key … is invalid".
_SENTENCE = re.compile(
    r"\b(?:api|access|secret|account|license|auth)[ ](?:key|token)(?:[ ]id)?"
    r"(?:(?:[ ](?:provided|given|used|received|supplied))?:[ \t]*"
    r"|[ ]+(?=[^\s\d]{0,100}\d\S{0,200}[ ](?:is|was|has|does)\b))",
    re.IGNORECASE,
)
_ENVIRONMENT = re.compile(r"""(?<![\w-])(?:--env|-e(?=\W+[A-Z_][A-Z\d_]*=))(?:=|[ \t]+|\\*['"],[ \t]*\\*['"])\w+=""")
_QUERY_NAMES = frozenset({"key", "code", "extra", "__extra__", "policy"})
_NO_SECRETS = frozenset(["none", "null", "true", "false", "nil", "undefined", "..."]) | frozenset(
    # as in schemas
    ["string", "str", "text", "utf8", "bytes", "binary", "int", "int32", "int64", "integer", "float", "double", "bool"]
)


def redact(text: str, limit: int | None = None) -> str:
    """Return a text in which `***` replaces its secrets; the same text again if it has none.

    Secrets are known by their name (`password=…`), by their place (a URL, a header, an option of a command), by their
    form (a PEM block, a token with a known prefix), or because somebody has named them (`hide_secrets`). The time is
    linear in the length of the text.

    Args:
        text: the text.
        limit: the most characters to return. The text is searched before it is cut: half a secret is a secret.
    """
    if limit is not None:
        return _redact_start(text, limit)
    text = known_secrets.hide(text)
    return _redact_short(text) if len(text) <= _MAX_CACHED_LENGTH else _redact(text)


def _redact_start(text: str, limit: int) -> str:
    # What is cut off may break a secret at the end, so the end is not returned. Hiding may shorten the text much.
    size = limit + _SEARCHED_BEYOND_LIMIT
    while size < len(text):
        kept = redact(text[:size])
        if len(kept) >= limit + _SEARCHED_BEYOND_LIMIT:
            return kept[:limit]
        size *= 2
    return redact(text)[:limit]


def redact_url(url: str) -> str:
    """Return the path or URL of a file without what does not name the file: the password, the query of a web address.

    Other than `redact`, it leaves the names of folders and files alone.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    end = _end_of_user_info(rest)
    is_web = scheme.lower().endswith(_WEB)
    rest = rest[end:] if is_web or ":" in rest[:end] else rest
    return f"{scheme}://{rest.partition('?')[0] if is_web else rest}"


def _redact(text: str) -> str:
    for rule in _RULES:
        text = rule(text)
    return text


_redact_short = lru_cache(maxsize=10_000)(_redact)


def _hide_pem_blocks(text: str) -> str:
    return _PEM.sub(HIDDEN, text)


def _hide_tokens(text: str) -> str:
    return _TOKEN.sub(HIDDEN, text)


def _hide_headers(text: str) -> str:
    return _COOKIES.sub(rf"\1{HIDDEN}", _CREDENTIALS_OF_HEADER.sub(rf"\1{HIDDEN}", text))


def _hide_in_urls(text: str) -> str:
    return _URL.sub(_without_credentials, text)


def _without_credentials(match: re.Match[str]) -> str:
    slashes, rest = match.groups()
    user_end = _end_of_user_info(rest)
    user, colon, _ = rest[: max(0, user_end - 1)].partition(":")
    is_web = match.string[max(0, match.start() - 5) : match.start()].lower().endswith(_WEB)
    shown = f"{user}:{HIDDEN}@" if colon else f"{HIDDEN if is_web else user}@" if user else ""
    host = rest[user_end:]
    hook = _WEBHOOK.match(host)
    return (
        f"{slashes}{shown}{host}"
        if hook is None
        else f"{slashes}{shown}{hook[1] or hook[2]}{HIDDEN}{host[hook.end() :]}"
    )


def _end_of_user_info(rest: str) -> int:
    """Return where the host begins in a URL without its scheme; 0 if it has neither user nor password."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return authority.rindex("@") + 1
    # A password that is not quoted may have the characters that end the authority; a port is no password.
    return 0 if ":" not in authority or _PORT.search(authority) else rest.rfind("@") + 1


def _hide_passwords_of_users(text: str) -> str:
    return _USER_AND_PASSWORD.sub(rf"\1{HIDDEN}@", text)


def _hide_named_values(text: str) -> str:
    return _hide_values(text, _NAME, _has_secret_name)


def _hide_values_of_options(text: str) -> str:
    return _hide_values(text, _OPTION, _has_secret_name)


def _hide_values_of_pairs(text: str) -> str:
    return _hide_values(text, _PAIR, _has_secret_name)


def _hide_values_of_elements(text: str) -> str:
    return _hide_values(text, _XML, _has_secret_name)


def _hide_values_of_fields(text: str) -> str:
    return _hide_values(text, _VALIDATION, _has_secret_name)


def _hide_passwords(text: str) -> str:
    return _hide_values(text, _PASSWORD)


def _hide_in_sentences(text: str) -> str:
    return _hide_values(text, _SENTENCE)


def _hide_environment(text: str) -> str:
    return _hide_values(text, _ENVIRONMENT)


def _has_secret_name(match: re.Match[str]) -> bool:
    in_query = match.string[match.start() - 1 : match.start()] in ("?", "&")
    return is_secret_name(match["name"]) or (in_query and match["name"].lower() in _QUERY_NAMES)


def _is_harmless(match: re.Match[str], value: str) -> bool:
    name = match.groupdict().get("name", "")
    parsed = int(value[:20]) if value.isdecimal() else [] if value.startswith("[") else value
    return value.lower() in _NO_SECRETS or (is_secret_name(name) and not is_secret(name, parsed))


def _match_value(match: re.Match[str]) -> re.Match[str] | None:
    in_path = match.string[match.start() - 1 : match.start()] == "/"
    return (in_path and _FOLDER.match(match.string, match.end())) or _VALUE.match(match.string, match.end())


def _hide_values(
    text: str, pattern: re.Pattern[str], is_secret_place: Callable[[re.Match[str]], bool] = lambda match: True
) -> str:
    """Hide the values that follow the matches of a pattern where `is_secret_place` says so."""
    parts: list[str] = []
    copied = searched = 0
    while match := pattern.search(text, searched):
        searched = match.end()
        # The name is looked at first: a value may be long, and is searched itself if it stays.
        value = _match_value(match) if is_secret_place(match) else None
        if value is not None and not _is_harmless(match, value[0]):
            parts += text[copied:searched], HIDDEN
            copied = searched = value.end()
    return "".join([*parts, text[copied:]]) if parts else text


# One rule per way in which secrets are written, in order: a later one sees what the earlier ones have left.
_RULES: tuple[Callable[[str], str], ...] = (
    _hide_pem_blocks,
    _hide_in_urls,
    _hide_environment,
    _hide_named_values,
    _hide_values_of_options,
    _hide_values_of_pairs,
    _hide_values_of_elements,
    _hide_values_of_fields,
    _hide_passwords,
    _hide_in_sentences,
    _hide_passwords_of_users,
    _hide_headers,
    _hide_tokens,
)
