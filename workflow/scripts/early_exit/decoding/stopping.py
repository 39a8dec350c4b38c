"""When a generation ends, what its text is, and whether it ran into a repetition loop."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StopRule:
    """Ends a generation at an end-of-sequence token, a stop string or a length, in this order.

    Stop strings are matched on the decoded text, so a token that merges one with other characters still stops.
    """

    tokenizer: object
    eos_ids: Collection[int]
    stop_strings: Sequence[str]
    max_new_tokens: int
    _enders: frozenset[int] = field(init=False, repr=False)

    def __post_init__(self):
        # A stop string can only become complete at a token that holds its last character: decode only there.
        ends = {string[-1] for string in self.stop_strings}
        pieces = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
        enders = frozenset(i for i, piece in enumerate(pieces) if ends & set(piece) or "\ufffd" in piece)
        object.__setattr__(self, "_enders", enders)

    def reason(self, token_ids: Sequence[int]) -> str | None:
        """Why a generation ends after `token_ids` (at least one), or None if it goes on."""
        if token_ids[-1] in self.eos_ids:
            return "eos"
        if token_ids[-1] in self._enders and self._cut(self._decode(token_ids)) is not None:
            return "stop"
        return "length" if len(token_ids) >= self.max_new_tokens else None

    def text(self, token_ids: Sequence[int]) -> str:
        """The answer: decoded, cut before the first stop string, without outer white space."""
        decoded = self._decode(token_ids)
        cut = self._cut(decoded)
        return (decoded if cut is None else decoded[:cut]).strip()

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _cut(self, text: str) -> int | None:
        found = [position for string in self.stop_strings if (position := text.find(string)) >= 0]
        return min(found, default=None)


def is_degenerate(token_ids: Sequence[int], *, ngram: int, repeats: int) -> bool:
    """True if some n-gram of 1..`ngram` tokens stands `repeats` times in a row anywhere in the generation."""
    tokens = list(token_ids)
    for n in range(1, ngram + 1):
        run = 0  # tokens in a row that equal the one n before
        for here, before in zip(tokens[n:], tokens, strict=False):
            run = run + 1 if here == before else 0
            if run >= n * (repeats - 1):
                return True
    return False
