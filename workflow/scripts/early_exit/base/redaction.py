"""Tokens for gated models come from the environment, and are struck out of whatever a job says or writes down.

Errors of the hub's client may quote a request with its headers, or an address with a signature. What is struck out: the
values of the variables that hold tokens, whatever looks like one of the hub's, and signatures and passwords in
addresses and headers.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "[hidden]"
# At the end of a name: TOKENIZERS_PARALLELISM and HF_TOKEN_PATH hold none.
_NAME = re.compile(r"(?i)(token|secret|password|passwd|api_?key|access_?key|credentials?)$")
_SHORTEST = 8  # characters of a value that is struck out: shorter ones would strike out words
_SHAPES = (  # what comes before the secret, which stays, and the secret
    re.compile(r"()\bhf_[A-Za-z0-9]{10,}"),
    re.compile(r"(?i)(bearer )[^\s'\",;)]+"),
    re.compile(r"(?i)(authorization['\"]?: ?['\"]?(?:basic )?)(?!bearer )[^\s'\",;)]+"),
    re.compile(r"(?i)([?&](?:signature|x-amz-signature|x-amz-credential|x-amz-security-token|token)=)[^&\s'\"]+"),
    re.compile(r"(://)[^/\s@]+(?=@)"),
)


def is_secret(name: str) -> bool:
    """Whether a variable or key of this name holds something that nobody may read."""
    return bool(_NAME.search(name))


def find(value: Any, key: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Keys of nested mappings and lists at which there is a token: in the name, the text, or by what it is called."""
    if isinstance(value, str):
        if value != redact(value) or (key and value and is_secret(str(key[-1]))):
            yield key
        return
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        if isinstance(name, str) and name != redact(name):
            yield (*key, name)
        yield from find(part, (*key, name))


def redact(text: str) -> str:
    """The text without tokens."""
    values = {value for name, value in os.environ.items() if is_secret(name) and len(value) >= _SHORTEST}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    for shape in _SHAPES:
        text = shape.sub(rf"\1{HIDDEN}", text)
    return text


class Formatter(logging.Formatter):
    """Formats a record, its traceback included, without tokens."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def excepthook(kind, error, trace) -> None:
    """What Python prints of an error that nobody caught, without tokens."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
