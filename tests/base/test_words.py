"""The words that texts are compared by, in any script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenize import tokenize

from early_exit.base.words import letters_and_digits, text_key, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 7 + 3?", "What is 7 - 3?"),
        ("7 − 3", "7 + 3"),
        ("7 * 3", "7 / 3"),
        ("2^3", "2*3"),
        ("the square of -5", "the square of 5"),
        ("C++", "C#"),
        ("C", "C++"),
        ("Who is blood group A-?", "Who is blood group A?"),
        ("a != b", "a = b"),
        ("5!?", "5?"),
        ("50 %", "50"),
        ("$5", "€5"),
        ("x < y", "x > y"),
        ("🙂", "🙁"),
        ("5²", "52"),
        ("राम का", "राम की"),
        ("কি", "কী"),
        ("மலை", "மாலை"),
        ("กา", "กี"),
        ("שָׁלוֹם", "שִׁלוּם"),
        ("résumé", "resume"),
    ],
)
def test_marks_and_symbols_tell_texts_apart(one, other):
    assert words(one) != words(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('Who wrote "Emma"?', "who wrote  emma"),
        ("SNOW fell -- all night!", "Snow fell all night."),
        ("a well-known man", "A well known man"),
        ("COVID-19", "Covid 19"),
        ("7-3", "7 – 3"),
        ("1990-1995", "1990–1995"),
        ("cafe\u0301", "café"),
        ("今天天气很好。", "今天天气很好"),
        ("Кто это?", "кто это"),
        ("राम कौन है?", "राम कौन है।"),
        ("Who said ``No''?", "Who said “No”?"),
        ("STRASSE", "straße"),
        ("co\u00adoperate\ufeff", "cooperate"),
        ("❤\ufe0f", "❤"),
        ("می\u200cروم", "میروم"),
    ],
)
def test_case_and_punctuation_do_not(one, other):
    assert words(one) == words(other) != ""


@given(st.text(st.characters(max_codepoint=127)))
def test_letters_and_digits_of_ascii_are_rouges_own_tokens(text):
    assert letters_and_digits(text) == tokenize(text, None)


def test_texts_without_words_stand_for_themselves():
    assert words("...") == words("?!") == "" and text_key(" ... ") == "..." != text_key("?!")
    assert text_key("Who?") == words("Who?")


def test_letters_of_scripts_without_spaces_are_words_with_their_marks():
    assert letters_and_digits("今天ab c。") == ["今", "天ab", "c"]
    assert letters_and_digits("ดี ที่") == ["ดี", "ที่"]
    assert letters_and_digits("राम की-जय 한국 말") == ["राम", "की", "जय", "한국", "말"]
