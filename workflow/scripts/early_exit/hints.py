"""What to say of a name that is not known."""

import difflib
from collections.abc import Sequence
from typing import Any


def hint(name: Any, known: Sequence[Any]) -> str:
    """The known name that is meant, if one is close, else all of them."""
    close = difflib.get_close_matches(str(name), list(map(str, known)), n=1)
    return f"did you mean '{close[0]}'?" if close else f"known are {', '.join(map(str, known)) or 'none'}"
