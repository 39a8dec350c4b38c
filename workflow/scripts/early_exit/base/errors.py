"""How to say what is wrong: the name that was meant, and all that is missing at once."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any


class InputError(Exception):
    """Something the user gave (config, file, model) is wrong; the message is one line that says what to do."""


def hint(name: Any, known: Sequence[Any]) -> str:
    """The known name that is meant, if one is close, else all of them."""
    close = difflib.get_close_matches(str(name), list(map(str, known)), n=1)
    return f"did you mean '{close[0]}'?" if close else f"known are {', '.join(map(str, known)) or 'none'}"


def for_each(check: Callable[..., None], cases: Iterable[tuple]) -> None:
    """Check every case; one InputError with a line for each that is wrong."""
    wrong = []
    for case in cases:
        try:
            check(*case)
        except InputError as error:
            wrong.append(str(error))
    if wrong:
        raise InputError("\n".join(wrong))
