"""Lists and objects written as text: read back exactly, or refused with the reason."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from early_exit.sources.written_values import looks_written, parse

TEXTS = st.lists(st.text(st.characters(codec="utf-8")), max_size=6)


def written(value, path) -> str:
    pd.DataFrame({"cell": pd.Series([value], dtype=object)}).to_csv(path)
    return pd.read_csv(path, keep_default_na=False)["cell"].iloc[0]


@settings(max_examples=150, deadline=None)
@given(TEXTS)
@example(["It's", 'a "b"', "a, b", "a' 'b", "a\nb", "\\", "漢字 🙂", "[x]", "...", "", " "])
def test_lists_are_read_back_as_python_numpy_and_json_write_them(texts):
    array = np.array(texts, dtype=object)
    for text in (repr(texts), str(array), repr(array), json.dumps(texts), json.dumps(texts, ensure_ascii=False)):
        assert looks_written(text) and parse(text) == texts, text
    if texts:
        assert parse(str(tuple(texts))) == texts
        assert parse(str(np.array(texts))) == np.array(texts).tolist()


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.text(st.characters(codec="utf-8"), max_size=5))
def test_objects_of_arrays_are_read_back(texts, value):
    numbers = list(range(1, len(texts) + 1))
    plain = {"aliases": texts, "value": value, "turn_id": numbers}
    arrays = {"aliases": np.array(texts, dtype=object), "value": value, "turn_id": np.array(numbers, dtype=np.int32)}
    for text in (repr(plain), str(arrays), json.dumps(plain), str({"a": arrays})):
        assert parse(text) in (plain, {"a": plain})
    records = [{"input_text": text, "turn_id": n} for n, text in zip(numbers, texts, strict=True)]
    assert parse(str(records)) == parse(str(np.array(records, dtype=object))) == records


def test_a_cell_of_to_csv_is_read_back(tmp_path):
    texts = [f'A long answer, number {n}, that isn\'t "short".' for n in range(40)]  # numpy breaks lines
    for value in (texts, np.array(texts, dtype=object), np.array(texts)):
        assert parse(written(value, tmp_path / "a.csv")) == texts
    assert parse(written([np.str_("a"), np.int64(3), np.float64(0.5), None, True], tmp_path / "b.csv")) == [
        "a", 3, 0.5, None, True,
    ]  # fmt: skip
    assert parse(written(np.array([-1, 2]), tmp_path / "c.csv")) == [-1, 2]
    assert parse("[ 'a'\n 'b' nan ]") == ["a", "b", None]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (str(np.array([f"a{n}" for n in range(1500)])), "numpy left out the middle of a long list"),
        ("['a', 'b", "no list or object at"),
        ("['a', 'b'", "neither JSON nor a list"),
        ("[a, b]", "'a' is no text"),
        ("{a,b}", "'{a, b}' is no text"),
        ('c("a", "b")', "is no text, number, list or object"),
        ("[exit('1')]", "is no text, number, list or object"),
        ("[b'a']", "no list|neither|is no text"),
        ("[f'{1}']", "no list|neither|is no text"),
        ("['a'] + ['b']", "neither JSON|is no text"),
        ('"[\\"a\\"]"', "no list or object was written there"),
        ("[" * 20000, "neither JSON nor a list"),
        ("{**{}}", "no list or object at"),
        ("plain", "is no text"),
    ],
)
def test_what_cannot_be_read_exactly_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        parse(text)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("['a']", True), (" [1]", True), ("{'a': 1}", True), ("array(['a'])", True), ("np.array([", True),
        ("('a',)", True), ('c("a", "b")', True), ('"[\'a\']"', True), ("Yes; No", False), ("A (b)", False),
        ("(b) is right", False), ("It said [sic] so", False), ("f(x)", False), ('"Yes"', False), ("", False),
    ],
)  # fmt: skip
def test_how_a_written_list_begins(text, is_one):
    assert looks_written(text) == is_one
