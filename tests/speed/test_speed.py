"""The speed protocol: what is timed in which order, what the numbers of a row are, that each case does what it says.

No test here says anything about real speed: where time matters, the clock is made up.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import ROOT, make_random_model
from early_exit.base.errors import InputError
from early_exit.costs import passes
from early_exit.decoding import fills
from early_exit.decoding.stopping import StopRule
from early_exit.experiment.config.load import load
from early_exit.heads import store
from early_exit.models import loading
from early_exit.report import speed
from early_exit.speed import cases as speed_cases
from early_exit.speed import interleaved
from early_exit.speed.interleaved import Case, TimedAnswer
from early_exit.speed.plan import plan
from priced import generation_flops
from timing import Silent, clock_of

EXITS, DEPTH, NEW_TOKENS = [2, 4], 6, 5
SETTINGS = {"repeats": 2, "batch_sizes": [1, 3], "new_tokens": NEW_TOKENS, "prompts": 2, "prompt_tokens": 6,
            "natural_prompts": 7, "sweep_prompts": 2, "sweep_thresholds": [0.2, 0.5, 0.8], "slots": 4,
            "seed": 1}  # fmt: skip
PROMPTS = [[3 + (7 * k + i) % 50 for i in range(4 + 3 * (k % 4))] for k in range(8)]
DESIGNS = {"calm": {"kind": "calm"},
           "mamba": {"kind": "mamba", "expand": 2, "head_dim": 8, "state_size": 8, "n_groups": 2}}  # fmt: skip


class Tokenizer:
    """One letter a token."""

    def __len__(self):
        return 61

    def batch_decode(self, rows):
        return [self.decode(row) for row in rows]

    def decode(self, token_ids, **options):
        return "".join(chr(33 + i) for i in token_ids)


ANSWERS = (TimedAnswer(3, (6, 6)),)


def case(name="full", answers=ANSWERS, flops=1.0, called=None, **options):
    def call():
        if called is not None:
            called.append(name)
        return list(answers)

    return Case("ours", name, 1, call, lambda _: flops, **options)


def test_rounds_are_in_turn_and_the_median_counts():
    called = []
    some = [case(name, called=called) for name in "abc"]
    durations = [1, 10, 100, 5, 50, 500, 3, 30, 300]
    measured = interleaved.interleave(some, 3, Silent(), clock_of(durations))
    assert called == list("abcabcabc")
    assert [measured[each].seconds for each in some] == [[1, 5, 3], [10, 50, 30], [100, 500, 300]]
    assert [measured[each].peak_memory_mib for each in some] == [7, 8, 9]  # the largest
    rows = interleaved.table(measured, backbone="x", dataset="y")
    assert list(rows.columns) == list(interleaved.COLUMNS)
    assert rows["seconds"].tolist() == [3, 30, 300] and rows["repeats"].eq(3).all()
    assert rows["seconds_low"].tolist() == [1, 10, 100] and rows["seconds_high"].tolist() == [5, 50, 500]


def test_a_row_compares_whole_calls_and_decoding_alone_with_its_baseline():
    """Prompts take 1 s; 2 rows with 5 tokens each, of which the first comes out of the prompt."""
    five = [TimedAnswer(3, (6,) * 5)] * 2
    prefill = case("prefill", answers=[TimedAnswer(3, (6,))] * 2)
    full = case("full", answers=five, flops=80.0, prefill=prefill)
    fast = case("exit", answers=five, flops=32.0, prefill=prefill, baseline=full)
    measured = interleaved.interleave([prefill, full, fast], 1, Silent(), clock_of([1, 5, 3]))
    row = interleaved.table(measured).iloc[2]
    assert row["tokens"] == 10 and row["prompts"] == 2 and row["prompt_tokens"] == 6
    assert row["baseline"] == "ours full"
    assert row["tokens_per_second"] == pytest.approx(10 / 3) and row["ratio"] == pytest.approx(5 / 3)
    assert row["decode_seconds"] == 2 and row["decode_tokens_per_second"] == pytest.approx(8 / 2)
    assert row["decode_ratio"] == pytest.approx(2) and row["implied"] == pytest.approx(2.5)
    assert row["efficiency"] == pytest.approx(0.8)


def test_decoding_too_short_for_the_clock_has_no_rate():
    prefill = case("prefill")
    measured = interleaved.interleave([prefill, case(prefill=prefill)], 1, Silent(), clock_of([1, 1]))
    row = interleaved.table(measured).iloc[1]
    assert row["decode_seconds"] == 0 and np.isnan(row["decode_tokens_per_second"])


@pytest.mark.parametrize("device", ["cpu"] + ["cuda"] * torch.cuda.is_available())
def test_the_probe_sees_the_peak_of_each_call_by_itself(device):
    probe = interleaved.Probe(torch.device(device))
    peaks = []
    for mib in (64, 1):
        probe.begin()
        block = torch.ones(mib * 2**18, device=device)
        del block
        peaks.append(probe.peak_mib())
    assert 40 < peaks[0] - peaks[1] < 90


def bench_of(name: str, **settings) -> speed_cases.Bench:
    backbone = loading.adapt(make_random_model(name))
    torch.manual_seed(1)
    timed = []
    for head, design in DESIGNS.items():
        fill = list(fills.FILLS[backbone.family])[0]  # noqa: RUF015
        trained = store.build(design, backbone.hidden_size, EXITS, head).eval().requires_grad_(False)
        timed.append(speed_cases.TimedHead(head, fill, "skip", 0.5, trained))
    checks = {head: store.cost(design, backbone.hidden_size, head) for head, design in DESIGNS.items()}
    table = passes.cost_table(backbone.model.config.to_dict(), checks)
    rule = StopRule(Tokenizer(), (2,), ("A", "KL"), 8)
    exits = speed_cases.Exits(EXITS, timed, [(2, 3)])
    return speed_cases.Bench(backbone, PROMPTS, rule, exits, costs=table, settings=SETTINGS | settings)


@pytest.fixture(scope="module", params=["llama", "mamba2"])
def bench(request):
    return bench_of(request.param)


@pytest.fixture(scope="module")
def measured(bench):
    """{group: {case: Repeats}} of two repeats of everything."""
    return {name: interleaved.interleave(cases, 2, Silent()) for name, cases in bench.groups().items()}


def test_every_case_is_there(bench, measured):
    assert list(measured) == ["1 rows", "3 rows", "3 rows, natural", "sweep"]
    count = len(fills.FILLS[bench.backbone.family])
    assert len(bench.fills) == count == 3
    frames = [interleaved.table(records, dataset="d") for records in measured.values()]
    table = pd.concat(frames)
    found = table.groupby(["batch_size", "system", "case"]).size().to_dict()
    expected = {}
    for rows in (1, 3):
        expected |= {(rows, "huggingface", "prefill"): 1, (rows, "huggingface", "full"): 1, (rows, "ours", "full"): 1,
                     (rows, "ours", "prefill"): 3, (rows, "ours", "heads"): 2,
                     (rows, "ours", "speculative"): 1,
                     (rows, "ours", "exit"): count * len(EXITS)}  # fmt: skip
    expected |= {(3, "ours", "random"): count, (3, "huggingface", "natural"): 1, (3, "ours", "natural"): 1}
    expected |= {(4, "ours", "sweep-joint"): 1, (4, "ours", "sweep-separate"): 1}
    assert found == expected
    with_baseline = table[table["baseline"].notna()]
    assert with_baseline[["ratio", "implied"]].notna().all(axis=None)
    assert set(table.loc[table["case"].isin(["exit", "random", "heads", "speculative"]), "baseline"]) == {"ours full"}
    drafts = table[table["case"] == "speculative"]
    assert set(drafts["exit_block"]) == {2} and set(drafts["draft_tokens"]) == {3}
    assert drafts["acceptance_rate"].between(0, 1).all() and table["acceptance_rate"].notna().sum() == len(drafts)
    assert (drafts["implied"] < 1).all()  # it costs more than it gives, in FLOPs


def test_exits_are_where_the_case_says(measured):
    for name in ("1 rows", "3 rows"):
        for each, record in measured[name].items():
            if each.name == "prefill":
                assert {answer.exit_blocks for answer in record.answers} == {(DEPTH,)}
                continue
            assert {len(answer.exit_blocks) for answer in record.answers} == {NEW_TOKENS}
            later = {block for answer in record.answers for block in answer.exit_blocks[1:]}
            if each.name == "exit":
                assert later == {each.labels["exit_block"]}
            elif each.name in ("full", "speculative"):
                assert later == {DEPTH}
            elif each.name == "random":
                assert later <= {*EXITS, DEPTH} and len(later) > 1


def test_rows_that_run_together_have_prompts_of_one_length(measured):
    assert {answer.prompt_tokens for record in measured["3 rows"].values() for answer in record.answers} == {4}
    whole = {answer.prompt_tokens for record in measured["1 rows"].values() for answer in record.answers}
    assert whole == {len(PROMPTS[0]), len(PROMPTS[1])}


def test_implied_speed_ups_are_the_flops_tables(bench, measured):
    for records in (measured["1 rows"], measured["3 rows"]):
        rows = interleaved.table(records).to_dict("records")
        for (each, record), row in zip(records.items(), rows, strict=True):
            if each.name not in ("exit", "random", "heads"):
                continue
            counted = generation_flops(
                bench.costs, prompt_tokens=[a.prompt_tokens for a in record.answers],
                exit_blocks=[a.exit_blocks for a in record.answers], exits=EXITS,
                head=each.labels.get("head"), state_fill=each.labels["state_fill"],
            )  # fmt: skip
            assert row["implied"] == pytest.approx(counted["flops_full"].sum() / counted["flops"].sum())
            assert row["efficiency"] == pytest.approx(row["decode_ratio"] / row["implied"], nan_ok=True)


def test_natural_answers_end_where_they_end_in_both_systems(bench, measured):
    (library, theirs), (_, ours) = measured["3 rows, natural"].items()
    assert library.system == "huggingface"
    assert sorted(theirs.answers) == sorted(ours.answers)
    lengths = {len(answer.exit_blocks) for answer in ours.answers}
    assert len(lengths) > 1 and max(lengths) <= 8  # else the case would show nothing
    assert len(ours.answers) == SETTINGS["natural_prompts"]


def test_the_sweep_counts_a_prompt_once_for_all_thresholds_of_a_job(bench, measured):
    (apart, separate), (joint, together) = measured["sweep"].items()
    assert (apart.name, joint.name) == ("sweep-separate", "sweep-joint")
    assert sorted(separate.answers) == sorted(together.answers) and len(together.answers) == 6
    lengths, blocks, _, _ = zip(*together.answers, strict=True)
    head = {"head": joint.labels["head"], "state_fill": joint.labels["state_fill"]}
    counted = generation_flops(bench.costs, prompt_tokens=lengths, exit_blocks=blocks, exits=EXITS, **head)
    decoding, prompts = counted["flops"].sum(), counted["prompt_flops"].sum()
    assert apart.flops(separate.answers) == pytest.approx(decoding + prompts)
    assert joint.flops(together.answers) == pytest.approx(decoding + prompts / 3)


def test_the_library_keeps_its_own_generation_config(bench):
    before = bench.backbone.model.generation_config
    speed_cases.library_answers(bench.backbone, PROMPTS[:2], 2, bench.first_rule)
    assert bench.backbone.model.generation_config is before


def test_too_few_prompts_are_named(bench):
    few = speed_cases.Bench(
        bench.backbone, PROMPTS[:2], bench.natural_rule, speed_cases.Exits(EXITS), costs=bench.costs, settings=SETTINGS
    )
    with pytest.raises(InputError, match=r"3 prompts are asked for, the test split has 2"):
        few.fixed_length(3)
    few.prompts = PROMPTS
    assert "sweep" not in few.groups()  # no heads, no sweep


@pytest.fixture(scope="module")
def tiny():
    return timed()


def timed(speed=None, **user):
    return load({"preset": "tiny", "speed": speed or {}, **user}, ROOT)


def test_the_plan_takes_one_head_with_a_state_and_one_without(tiny):
    plans = plan(tiny, "results/x")
    assert list(plans) == ["tiny-transformer", "tiny-mamba"]
    for entries in plans.values():
        assert [entry["dataset"] for entry in entries] == list(tiny.datasets)
        assert [head["head"] for head in entries[0]["heads"]] == ["mamba", "calm"]
        assert all(head["threshold"] == 0.9 and head["calibrated"] is None for head in entries[0]["heads"])
    chosen = {"policies": ["ffn-skip", "ffn-propagate"], "threshold": None}
    (head,) = plan(timed(chosen), "results/x")["tiny-transformer"][0]["heads"]
    assert head["calibrated"] == "results/x/thresholds/tiny-transformer/triviaqa.json"
    assert (head["policy"], head["promise"]) == ("ffn-propagate", "same-answer")
    with pytest.raises(InputError, match=r"speed\.threshold.*calibration\.promises has none"):
        plan(timed(chosen, calibration={"promises": dict.fromkeys(tiny.calibration.promises)}), "results/x")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("backbones", ["tiny-mambo"], r"speed\.backbones\[0\]': 'tiny-mambo' is unknown; did you mean 'tiny-mamba'\?"),
        ("datasets", ["coqa", "triviaq"], r"speed\.datasets\[1\]': 'triviaq' is unknown; did you mean 'triviaqa'\?"),
        ("policies", ["full"], r"speed\.policies\[0\]': 'full' has no heads"),
    ],
)
def test_a_wrong_name_is_named(key, value, message):
    with pytest.raises(InputError, match=message):
        plan(timed({key: value}), "results/x")


def test_the_figure_shows_every_speed_up_against_what_is_implied(measured, tmp_path):
    frames = [interleaved.table(records, backbone="b", dataset="d") for records in measured.values()]
    path = tmp_path / "speed.csv"
    table = pd.concat(frames)
    table["decode_ratio"] = np.where(table["decode_ratio"].notna() | table["case"].eq("exit"), 1.25, np.nan)
    table.to_csv(path, index=False)
    table = pd.read_csv(path)
    figure = speed.speed(table)
    panels = figure.axes
    assert [axes.get_title() for axes in panels] == ["b, d: batch size 1", "b, d: batch size 3"]
    for axes, size in zip(panels, (1, 3), strict=True):
        drawn = [line.get_xydata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
        shown = ~table["case"].isin(["full", "speculative"]) & table["decode_ratio"].notna()
        rows = table[(table["batch_size"] == size) & shown]
        assert sorted(x for x, _ in drawn) == pytest.approx(sorted(rows["implied"]))
        assert {y for _, y in drawn} == {1.25}
        assert {text.get_text() for text in axes.texts} == {str(block) for block in EXITS}
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"forced exit (after block)", "random exits", "head calm", "head mamba", "90 % of what is implied"} <= labels


def test_a_table_without_speed_ups_is_refused():
    with pytest.raises(InputError, match=r"speed\.csv"):
        speed.speed(pd.DataFrame(columns=list(interleaved.COLUMNS)))
