"""Which names say that their value is secret."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_MAX_NAME_LENGTH = 200
_LEAST_NUMERIC_PASSWORD = 1_000
_MAY_BE_COUNTED = re.compile(r"pass|sig|pat|session")
# Parts that make a name secret wherever they occur, as in PGPASSWORD or clientsecret.
_SECRET_PART = re.compile(
    r"passw|passphrase|passcode|secret(?!ar)|credential|(?:api|access|account|private|signing|auth)key(?!w)|"
    r"(?:access|auth|api|sas)token(?!iz)|sessionid|userpass|conn(?:ection)?[ _-]?str(?:ing)?(?![a-z])"
)
# The other patterns are for whole words of a name; `api_key`, `apiKey` and `X-Api-Key` have the same words.
_SECRET_WORD = re.compile(
    r"pwd|dsn|creds?|jwt|hmac|bearer|cookies?|auth|oauth|authorization|authentication|signature|webhooks?|t?otp"
)
# Secret at the end of a name (`db_pass`), or before one of the endings (`session_id`).
_SECRET_AT_THE_END = re.compile(r"pass|pw|sig|session")
_HARMLESS_BEFORE_THE_END = re.compile(r"n|num|low|high|band|all|single|first|second|last|max|min")
# Secret alone, or after the name of what they are for; `glob_pat` and `input_sas` are something else.
_SECRET_OF_A_VENDOR = re.compile(r"pat|sas")
_VENDOR = re.compile(
    r"github|gh|gitlab|gl|git|azure|devops|ado|jira|databricks|airtable|blob|container|storage|account|service|my|repo|user|ci|bot|"
)
_ENDING = re.compile(r"id|key|token|value")
_SECRET_KEY = re.compile(
    r"api|access|account|private|secret|sign(?:ing|ature)|(?:en|de)crypt(?:ion|ing)?|master|shared|ssh|storage|"
    r"subscription|consumer|deploy|license|auth|hmac|session|aes|rsa|gpg|pgp|fernet|cipher|symmetric|service|"
    r"admin|app|application|integration|ingest|wrapping|functions"
)
# Last words of names that are about something secret but are not secret: `password_field`, `auth_method`.
_HARMLESS_LAST_WORD = re.compile(
    r"columns?|fields?|counts?|length|len|limit|size|types?|ttl|timeout|index|method|mode|provider|algorithm|arn|scope|"
    r"expiry|budget|source|mechanism|enabled|required|strategy|policy|pattern|overlap|window|separator|dim|dropout|col|"
    r"filter|class|counter|embedding|func|bits|path|errors?|exceptions?"
)
# Words around `token` in the language of models and parsers, such as `pad_token` and `token_ids`. Several tokens are
# mostly theirs as well: `max_tokens`, `query_tokens`.
_HARMLESS_BEFORE_TOKEN = re.compile(
    r"max|min|num|n|nb|total|avg|mean|new|input|output|prompt|completion|special|stop|bad|pad|padding|eos|bos|unk|mask|"
    r"sep|cls|start|end|image|audio|video|context|per|decoder|first|last|blank|fim"
)
_HARMLESS_AFTER_TOKEN = re.compile(
    r"ids?|files?|ur[il]|endpoint|per|ratio|rate|to|stats|d?type|format|inputs?|outputs?|mask|map|level|positions?"
)
_ADDRESS_OF_A_LOGIN = re.compile(r"(?:o?auth|authentication|authorization) (?:ur[il]|endpoint)")
_SECRET_BEFORE_TOKENS = re.compile(
    r"access|api|auth|oauth|refresh|bearer|personal|deploy|bot|app|service|user|session|"
)


def is_secret(name: str, value: object) -> bool:
    """Return whether a value of this name must not be written anywhere; `max_tokens=100` may be."""
    if value is None or isinstance(value, bool | float):
        return False
    if isinstance(value, list | tuple | set) and _words(name) == ["tokens"]:
        return False
    return is_secret_name(name) and not (isinstance(value, int) and _is_count(name, value))


def _is_count(name: str, value: int) -> bool:
    """Return whether an integer of a secret name is rather a count or an id, as `session_id=12` and `pass=3`."""
    words = _words(name)
    if "tokens" in words:
        return True
    if _SECRET_PART.search(name.lower()):
        return False
    is_id = len(words) > 1 and ("session" in words or "token" in words[:-1])
    return is_id or (abs(value) < _LEAST_NUMERIC_PASSWORD and _MAY_BE_COUNTED.fullmatch(words[-1]) is not None)


@lru_cache(maxsize=10_000)
def is_secret_name(name: str) -> bool:
    """Return whether a name says that its value is secret."""
    words = _words(name)
    # The path of a web hook is its secret.
    if not words or (_HARMLESS_LAST_WORD.fullmatch(words[-1]) and words[-2:] != ["webhook", "path"]):
        return False
    if _SECRET_PART.search(name.lower()):
        return True
    return any(_is_secret_word(words, index) for index in range(len(words)))


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name[-_MAX_NAME_LENGTH:])]


def _is_secret_word(words: Sequence[str], index: int) -> bool:
    word, following = words[index], words[index + 1] if index + 1 < len(words) else ""
    before = words[index - 1] if index else ""
    if word == "tokens":
        return not following and _SECRET_BEFORE_TOKENS.fullmatch(before) is not None
    if word == "token":
        return not (_HARMLESS_BEFORE_TOKEN.fullmatch(before) or _HARMLESS_AFTER_TOKEN.fullmatch(following))
    if not following or _ENDING.fullmatch(following):
        if _SECRET_AT_THE_END.fullmatch(word):
            return _HARMLESS_BEFORE_THE_END.fullmatch(before) is None
        if _SECRET_OF_A_VENDOR.fullmatch(word):
            return _VENDOR.fullmatch(before) is not None
    if _ADDRESS_OF_A_LOGIN.fullmatch(f"{word} {words[-1]}"):
        return False
    is_key = following in ("key", "keys") and _SECRET_KEY.fullmatch(word) is not None
    return is_key or _SECRET_WORD.fullmatch(word) is not None
