"""The words of a text in any script, to compare texts by.

Letters, digits and the marks that combine with them (vowel signs, accents) make words, in lower case. A symbol
(`+`, `#`, `%`, a currency, an emoji) is a word of its own. Other punctuation and white space only separate, so
`Who wrote "Emma"?` has the words of `who wrote emma`, but `7 + 3` not those of `7 - 3`, nor `C++` those of `C#`.
Characters that nobody sees (soft hyphens, joiners) do not count.
"""

import re
import unicodedata
from functools import lru_cache

_SYMBOLS = "#%&*/@\\\u2030\u2032\u2033"  # punctuation in Unicode, but they tell questions apart
_QUOTES = "`´"  # symbols in Unicode
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"
# A dash is a minus between numbers, before a number but not behind a letter (`COVID-19` is a name), and behind a single
# letter or digit (`A-`). `!` is a symbol in `!=`, and behind a number where the sentence goes on.
_MINUS = re.compile(
    rf"(?<=\d)(\s*)[{_DASHES}](?=\s*\d)|(?<![^\W\d_])()[{_DASHES}](?=\d)|(?<=\b\w)()[{_DASHES}](?![{_DASHES}\w])"
)
_NOT = re.compile(r"!(?==)|(?<=\d)!(?=\s*[-+*/^=?])")
# Scripts without spaces between words: each letter, with its marks, is a word.
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")


@lru_cache(maxsize=1024)  # all turns of a conversation have the same story
def words(text: str) -> str:
    """Returns the words in lower case with single spaces; texts that differ only in case and punctuation have equal."""
    composed = unicodedata.normalize("NFC", text.casefold())
    signed = _NOT.sub("\u00ac", _MINUS.sub("\\1\u2212", composed))
    return " ".join(signed.translate(_SPACED).split())


def text_key(text: str) -> str:
    """Returns what stands for a text in comparisons: its words, or the text itself if it has none."""
    return words(text) or text.strip()


def letters_and_digits(text: str) -> list[str]:
    """Returns the words of letters and digits, without symbols; of scripts without spaces every letter is one.

    In ASCII these are ROUGE's own tokens: runs of `a-z` and `0-9` in lower case.
    """
    return unicodedata.normalize("NFC", text.casefold()).translate(_LETTERS).split()


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"  # formats, variation selectors


class _Spaced(dict):
    """For `str.translate`: letters, digits, `_` and marks as they are, symbols between spaces, else a space."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if _is_invisible(character):
            result = ""
        elif character.isalnum() or character == "_" or _is_mark(character):
            result = character
        elif character in _SYMBOLS or (unicodedata.category(character)[0] == "S" and character not in _QUOTES):
            result = f" {character} "
        else:
            result = " "
        return self.setdefault(code, result)


class _Letters(dict):
    """For `str.translate`: letters, digits and marks, and a space before each letter of an unspaced script."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if _is_invisible(character):
            result = ""
        elif _is_mark(character):
            result = character
        elif not character.isalnum():
            result = " "
        else:
            result = " " * unicodedata.name(character, "").startswith(_UNSPACED) + character
        return self.setdefault(code, result)


_SPACED, _LETTERS = _Spaced(), _Letters()
