"""Removes tokens from everything that a job prints or logs.

Tokens for gated models come from the environment, and errors of the hub's client may quote a request's headers or a
signed address. Redacted are the values of environment variables that hold secrets, everything that looks like a token
of the hub, and signatures and passwords in addresses and headers.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "[hidden]"
# At the end of a name only: TOKENIZERS_PARALLELISM and HF_TOKEN_PATH hold no secrets.
_NAME = re.compile(r"(?i)(token|secret|password|passwd|api_?key|access_?key|credentials?)$")
_SHORTEST = 8  # characters; redacting shorter values would redact ordinary words
_SHAPES = (  # the group before the secret stays
    re.compile(r"()\bhf_[A-Za-z0-9]{10,}"),
    re.compile(r"(?i)(bearer )[^\s'\",;)]+"),
    re.compile(r"(?i)(authorization['\"]?: ?['\"]?(?:basic )?)(?!bearer )[^\s'\",;)]+"),
    re.compile(r"(?i)([?&](?:signature|x-amz-signature|x-amz-credential|x-amz-security-token|token)=)[^&\s'\"]+"),
    re.compile(r"(://)[^/\s@]+(?=@)"),
)


def is_secret(name: str) -> bool:
    """Returns whether a variable or key of this name holds a secret."""
    return bool(_NAME.search(name))


def find(value: Any, key: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yields the keys of nested mappings and lists whose name or text contains a token, or whose name says so."""
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
    """Returns the text with every token replaced by `HIDDEN`."""
    values = {value for name, value in os.environ.items() if is_secret(name) and len(value) >= _SHORTEST}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    for shape in _SHAPES:
        text = shape.sub(rf"\1{HIDDEN}", text)
    return text


class Formatter(logging.Formatter):
    """Formats log records, tracebacks included, without tokens."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def excepthook(kind, error, trace) -> None:
    """Print an uncaught error as Python does, without tokens."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
