"""Errors of the user's input: one line each, with the name that was probably meant, and all of them at once."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any


class InputError(Exception):
    """Something the user gave (config, file, model) is wrong; the message is one line that says what to do."""


def hint(name: Any, known: Sequence[Any]) -> str:
    """Returns a hint for an unknown name: the most similar known name if one is close, else all known names."""
    close = difflib.get_close_matches(str(name), list(map(str, known)), n=1)
    return f"did you mean '{close[0]}'?" if close else f"known are {', '.join(map(str, known)) or 'none'}"


def for_each(check: Callable[..., None], cases: Iterable[tuple]) -> None:
    """Call `check(*case)` for every case; one InputError with a line for each case that raised one."""
    wrong = []
    for case in cases:
        try:
            check(*case)
        except InputError as error:
            wrong.append(str(error))
    if wrong:
        raise InputError("\n".join(wrong))
