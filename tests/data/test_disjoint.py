"""Planted overlaps between splits end in one line that names them; disjoint splits pass."""

import json
import runpy
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from jsonschema import Draft202012Validator

from conftest import ROOT
from early_exit.base import records
from early_exit.base.errors import InputError
from early_exit.data import disjoint
from early_exit.data.questions import sha256

STORIES = ("Ann has a red boat. She sails on Sundays.", "Bo bakes bread. The oven is old.")


def make_corpus(**changed):
    """Two documents to train on and one held out; `changed` gives other texts by document."""
    texts = {"d1": "Rain fell. The road was wet.", "d2": "Snow fell all night.", "d3": "The sun rose late."} | changed
    rows = [(name, "held_out" if name == "d3" else "train", text, sha256(text)) for name, text in texts.items()]
    return pd.DataFrame(rows, columns=records.CORPUS.names)


def make_examples(rows):
    """Examples from (example_id, group_id, split, story, question)."""
    frame = pd.DataFrame(rows, columns=["example_id", "group_id", "split", "story", "question"])
    prompt = frame["story"] + "\n\nQ: " + frame["question"] + "\nA:"
    rest = {"conversation_id": frame["group_id"], "turn": 1, "prompt": prompt, "prompt_sha256": prompt.map(sha256)}
    lists = {name: [[] for _ in prompt] for name in ("prompt_parts", "stop_strings", "references", "incorrect")}
    return frame.assign(**rest, **lists)[records.EXAMPLES.names]


def trivia(*more):
    return make_examples(
        [("t1", "t1", "calibration", "", "Who wrote Emma?"), ("t2", "t2", "test", "", "Where is Oslo?"), *more]
    )


def coqa(*more):
    rows = [
        ("c1:1", "c1", "calibration", STORIES[0], "Colour?"),
        ("c1:2", "c1", "calibration", STORIES[0], "When?"),
        ("c2:1", "c2", "test", STORIES[1], "Who bakes?"),
    ]
    return make_examples([*rows, *more])


def test_disjoint_splits_pass_and_the_proof_lists_the_comparisons():
    proof = disjoint.prove(make_corpus(), {"trivia": trivia(), "coqa": coqa()})
    assert {name: split["documents"] for name, split in proof["splits"].items()} == {
        "corpus/held_out": 1,
        "corpus/train": 2,
        "coqa/calibration": 1,
        "coqa/test": 1,
        "trivia/calibration": 1,
        "trivia/test": 1,
    }
    pairs = {frozenset(pair) for pair in proof["compared"]}
    assert len(pairs) == 1 + 2 * 4 + 2  # within the corpus, the corpus with each split, within each set
    assert frozenset({"trivia/calibration", "trivia/test"}) in pairs
    assert frozenset({"trivia/calibration", "coqa/test"}) not in pairs
    rules = yaml.safe_load((ROOT / "workflow/schemas/disjoint.schema.yaml").read_text())
    Draft202012Validator(rules).validate(json.loads(json.dumps(proof)))


@pytest.mark.parametrize(
    ("corpus", "trivia_rows", "coqa_rows", "message"),
    [
        ({"d3": "SNOW fell -- all  night!"}, (), (), r"held_out and corpus/train share text \(1: d3 = d2\)"),
        ({"d2": "who wrote emma"}, (), (), r"corpus/train and trivia/calibration share text \(1: d2 = t1\)"),
        ({"d3": STORIES[1]}, (), (), r"corpus/held_out and coqa/test share text \(1: d3 = c2:1\)"),
        ({"d1": f"Well. {STORIES[1]} The end."}, (), (), r"evaluated questions \(1: d1 contains c2:1\)"),
        ({"d3": "Hm. Where is Oslo? In Norway."}, (), (), r"evaluated questions \(1: d3 contains t2\)"),
        ({}, [("t9", "t9", "test", "", "Who wrote Emma")], (), r"trivia/calibration and trivia/test .*\(1: t1 = t9\)"),
        ({}, (), [("c9:1", "c9", "test", STORIES[0], "Who?")], r"coqa/calibration and coqa/test .*: c1:[12] = c9:1\)"),
        ({}, [("t1", "t9", "test", "", "Why?")], (), r"datasets\.trivia: example_id t1 is in more than one split"),
        ({}, (), [("c1:9", "c1", "test", "A third story.", "Why?")], r"datasets\.coqa: group_id c1 is in more than"),
    ],
)  # fmt: skip
def test_an_overlap_is_named(corpus, trivia_rows, coqa_rows, message):
    with pytest.raises(InputError, match=message) as caught:
        disjoint.prove(make_corpus(**corpus), {"trivia": trivia(*trivia_rows), "coqa": coqa(*coqa_rows)})
    assert "\n" not in str(caught.value)


def test_two_sets_may_share_questions():
    again = trivia().assign(split=["test", "calibration"])
    assert disjoint.prove(make_corpus(), {"trivia": trivia(), "again": again})["splits"]["again/test"]["documents"] == 1


def run_script(folder, corpus):
    """The script check_disjoint on hand-over files in `folder`."""
    paths = {"corpus": folder / "corpus.parquet", "trivia": folder / "trivia.parquet", "out": folder / "disjoint.json"}
    records.write_table(corpus, paths["corpus"], records.CORPUS)
    records.write_table(trivia(), paths["trivia"], records.EXAMPLES)
    job = SimpleNamespace(
        input=SimpleNamespace(corpus=paths["corpus"], datasets=[paths["trivia"]]),
        output=[str(paths["out"])],
        log=[str(folder / "log")],
        rule="check_disjoint",
    )
    runpy.run_path(str(ROOT / "workflow/scripts/check_disjoint.py"), {"snakemake": job})
    return paths["out"]


def test_the_script_writes_the_proof_or_ends_in_one_line_and_writes_nothing(tmp_path):
    first = run_script(tmp_path, make_corpus()).read_bytes()
    assert run_script(tmp_path, make_corpus()).read_bytes() == first
    (tmp_path / "disjoint.json").unlink()
    with pytest.raises(SystemExit, match=r"^Error in check_disjoint: corpus/train and trivia/test .*d2 = t2\)[^\n]*$"):
        run_script(tmp_path, make_corpus(d2="Where is Oslo?"))
    assert not (tmp_path / "disjoint.json").exists()


@pytest.mark.parametrize(
    ("document", "question"),
    [
        ("今天下雨。谁写了红楼梦？曹雪芹写的。", "谁写了红楼梦？"),
        ("Ночь… «Кто написал роман «Мы»?» Замятин.", "Кто написал роман Мы?"),
        ("यह भारत है। ताजमहल किसने बनवाया? शाहजहाँ ने।", "ताजमहल किसने बनवाया"),
        ("هذا نص. من كتب هذا الكتاب؟ لا أعرف.", "من كتب هذا الكتاب؟"),
        ("یہ کتاب ہے۔ اسے کس نے لکھا؟", "اسے کس نے لکھا"),
        ("Είναι νύχτα. Πού είναι η Αθήνα; Στην Ελλάδα.", "Πού είναι η Αθήνα;"),
        ("Գիշեր է։ Ո՞վ գրեց։ Նա։", "Ո՞վ գրեց"),
        ("ሌሊት ነው። ማን ጻፈው፧ እሱ።", "ማን ጻፈው"),
        ("Q：谁写了红楼梦？", "谁写了红楼梦？"),
        ("กลางคืน ใครเขียนพระอภัยมณี สุนทรภู่", "ใครเขียนพระอภัยมณี"),
        ("## Who wrote Emma?\n", "Who wrote Emma?"),
        ("- **Who wrote Emma?** Austen", "Who wrote Emma?"),
        ("Cafe\u0301. Ou\u0300 est le cafe\u0301? La\u0300.", "Où est le café ?"),  # composed and decomposed
    ],
)
def test_a_question_inside_a_document_is_found_in_any_script(document, question):
    examples = make_examples([("e", "e", "test", "", question)])
    assert list(disjoint.leaks(make_corpus(d1=document), examples)) == [("d1", "e")]


@pytest.mark.parametrize(
    ("document", "question"),
    [
        ("Well. What is 7 + 3? Ten.", "What is 7 - 3?"),
        ("Who made C++? He did.", "Who made C#?"),
        ("यह क्या है। राम का भाई कौन है? लक्ष्मण।", "राम की भाई कौन है?"),
        ("-5 is odd. -5 squared? 25.", "5 squared?"),
        ("#1 in 1990? Vogue.", "1 in 1990?"),
    ],
)
def test_a_question_that_differs_in_a_sign_or_a_vowel_mark_is_another(document, question):
    examples = make_examples([("e", "e", "test", "", question), ("f", "f", "calibration", "", "Who?")])
    assert list(disjoint.leaks(make_corpus(d1=document), examples)) == []
    assert disjoint.prove(make_corpus(d1=document), {"trivia": examples})["searched"]["examples"] == 2
