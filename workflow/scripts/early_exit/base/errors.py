"""Errors of the user's input: one line each, with the name that was probably meant, and all of them at once."""

import difflib
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class InputError(Exception):
    """Something the user gave (config, file, model) is wrong; the message is one line that says what to do."""


def hint(name: Any, known: Sequence[Any]) -> str:
    """Returns a hint for an unknown name: the most similar known name if one is close, else all known names."""
    close = difflib.get_close_matches(str(name), list(map(str, known)), n=1)
    return f"did you mean '{close[0]}'?" if close else f"known are {', '.join(map(str, known)) or 'none'}"


@contextmanager
def reading(what: Any, remedy: str = "fetch or copy it again") -> Iterator[None]:
    """Turns every failure of the block into an InputError of one line that names `what` and says the remedy.

    For the edge where a file of the user's is read, and for nothing else: other programs wrote it, and the libraries
    that parse it raise errors of many types. Behind that edge an error is a bug, and stays a traceback.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        why = textwrap.shorten(f"{type(error).__name__}: {error}", 400, placeholder=" ...")
        raise InputError(f"{what}: cannot be read ({why}); {remedy}") from error


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
