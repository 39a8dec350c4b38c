"""Where generations end and what their text is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from early_exit.decoding.stopping import StopRule, is_degenerate


class Letters:
    """A tokenizer whose tokens are these strings; token 0 is the end of the sequence and decodes to nothing."""

    pieces = ("", " a", "b", "\n", "x\ny", "\nQ", ":", "</s>")

    def __len__(self):
        return len(self.pieces)

    def decode(self, ids, **options):
        return "".join(self.pieces[i] for i in ids)

    def batch_decode(self, rows):
        return [self.decode(ids) for ids in rows]


def rule(*strings, length=9):
    return StopRule(Letters(), {0}, strings, length)


def test_reasons_in_order():
    stops = rule("\n", length=3)
    assert stops.reason([1]) is None
    assert stops.reason([1, 0]) == "eos"
    assert stops.reason([1, 2, 3]) == "stop"
    assert stops.reason([1, 2, 2]) == "length"


def test_a_stop_string_inside_a_token_stops_and_is_cut():
    stops = rule("\n")
    assert stops.reason([1, 4]) == "stop"
    assert stops.text([1, 4]) == "ax"


def test_a_stop_string_over_two_tokens():
    stops = rule("\nQ:")
    assert stops.reason([1, 5]) is None
    assert stops.reason([1, 5, 6]) == "stop"
    assert stops.text([1, 5, 6]) == "a"


def test_the_earliest_of_several_stop_strings_cuts():
    assert rule("b", "\n").text([1, 2, 3]) == "a"


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [([1, 1, 1, 1], True), ([1, 1, 1], False), ([5, 1, 2, 1, 2, 1, 2, 1, 2, 9], True), ([1, 2, 3] * 3, False),
     ([1, 2, 3] * 4, True), ([], False)],
)  # fmt: skip
def test_degenerate(tokens, expected):
    assert is_degenerate(tokens, ngram=4, repeats=4) is expected


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(1, 4), st.integers(2, 4))
def test_degenerate_equals_its_definition(tokens, ngram, repeats):
    expected = any(
        tokens[i : i + n] * repeats == tokens[i : i + n * repeats]
        for n in range(1, ngram + 1)
        for i in range(len(tokens) - n * repeats + 1)
    )
    assert is_degenerate(tokens, ngram=ngram, repeats=repeats) is expected
