"""Which names say that their value is secret."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_MAX_NAME_LENGTH = 200
# Parts that make a name secret wherever they occur, as in PGPASSWORD or clientsecret.
_SECRET_PART = re.compile(
    r"passw|passphrase|passcode|secret(?!ar)|credential|(?:api|access|account|private|signing|auth)key(?!w)|"
    r"(?:access|auth|api|sas)token(?!iz)|sessionid|userpass|conn(?:ection)?[ _-]?str(?:ing)?(?![a-z])"
)
# The other patterns are for whole words of a name; `api_key`, `apiKey` and `X-Api-Key` have the same words.
_SECRET_WORD = re.compile(
    r"pwd|dsn|creds?|jwt|hmac|bearer|cookies?|auth|oauth|authorization|authentication|signature|webhooks?|t?otp"
)
# Secret at the end of a name (`db_pass`, `github_pat`), or before one of the endings (`session_id`).
_SECRET_AT_THE_END = re.compile(r"pass|pw|pat|sas|sig|session")
_ENDING = re.compile(r"id|key|token|value")
_SECRET_KEY = re.compile(
    r"api|access|account|private|secret|sign(?:ing|ature)|(?:en|de)crypt(?:ion|ing)?|master|shared|ssh|storage|"
    r"subscription|consumer|deploy|license|auth|hmac|session|aes|rsa|gpg|pgp|fernet|cipher|crypto|symmetric|service|"
    r"admin|app|application|integration|ingest|wrapping|functions"
)
# Last words of names that are about something secret but are not secret: `password_field`, `auth_method`.
_HARMLESS_LAST_WORD = re.compile(
    r"columns?|fields?|counts?|length|len|limit|size|types?|ttl|timeout|index|method|mode|provider|algorithm|arn|scope|"
    r"expiry|budget|source|mechanism|enabled|required|strategy|policy"
)
# Words around `token` in the language of models and parsers, such as `pad_token` and `token_ids`. Several tokens are
# mostly theirs as well: `max_tokens`, `query_tokens`.
_HARMLESS_BEFORE_TOKEN = re.compile(
    r"max|min|num|n|nb|total|avg|mean|new|input|output|prompt|completion|special|stop|bad|pad|padding|eos|bos|unk|mask|"
    r"sep|cls|start|end|image|audio|video|context|per|decoder"
)
_HARMLESS_AFTER_TOKEN = re.compile(
    r"ids|per|ratio|rate|to|stats|d?type|format|inputs?|outputs?|mask|map|level|positions?"
)
_SECRET_BEFORE_TOKENS = re.compile(
    r"access|api|auth|oauth|refresh|bearer|personal|deploy|bot|app|service|user|session|"
)


def is_secret(name: str, value: object) -> bool:
    """Return whether a value of this name must not be written anywhere; `max_tokens=100` may be."""
    if value is None or isinstance(value, bool | float):
        return False
    if isinstance(value, int) and "tokens" in _words(name):
        return False
    return is_secret_name(name)


@lru_cache(maxsize=10_000)
def is_secret_name(name: str) -> bool:
    """Return whether a name says that its value is secret."""
    words = _words(name)
    if not words or _HARMLESS_LAST_WORD.fullmatch(words[-1]):
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
    if _SECRET_AT_THE_END.fullmatch(word) and (not following or _ENDING.fullmatch(following)):
        return True
    is_key = following in ("key", "keys") and _SECRET_KEY.fullmatch(word) is not None
    return is_key or _SECRET_WORD.fullmatch(word) is not None
