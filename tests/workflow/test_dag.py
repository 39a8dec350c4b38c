"""The wiring: which jobs a config leads to, what a change re-runs, and the rules' own order.

The scripts are replaced by one that writes files of the right kind, so that the whole DAG runs in seconds.
"""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from early_exit.experiment import code_digest
from early_exit.experiment.runs import ANSWERED_BY

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "workflow/scripts"
RULE_FILES = sorted((ROOT / "workflow/rules").glob("*.smk"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = dict.fromkeys(
    ["HuggingFaceTB/SmolLM2-135M", "AntonV/mamba2-130m-hf", "mistralai/Mistral-7B-v0.3",
     "mistralai/Mamba-Codestral-7B-v0.1", "mandarjoshi/trivia_qa", "EleutherAI/coqa", "truthfulqa/truthful_qa",
     "HuggingFaceFW/fineweb-edu"],
    COMMIT,
)  # fmt: skip

# Two backbones, three datasets: on each pair of them one job of each rule that answers or evaluates. One recipe,
# trained from three seeds.
EXPECTED = {
    "fetch_dataset": 3,
    "fetch_corpus": 1,
    "fetch_backbone": 2,
    "check_disjoint": 1,
    "train_heads": 2,
    "train_heads_seed": 4,
    "measure_heads": 2,
    "head_tables": 1,
    "settle": 2,
    "answer_full": 6,
    "adapt": 2,  # adaptive thresholds on one dataset
    "answer": 6,
    "evaluate": 6,
    "calibrate": 6,
    "promise": 1,
    "layer_costs": 2,
    "measure_precision": 2,  # on one dataset
    "precision": 1,
    "tables": 1,
    "compare": 1,
    "claims": 1,
    "figures": 1,
    "provenance": 1,
    "report": 1,
    "all": 1,
}
# The presets of real models do not compare number formats.
WITHOUT_PRECISION = {rule: n for rule, n in EXPECTED.items() if rule not in ("measure_precision", "precision")}
# One backbone, one dataset, full, oracle and two head policies.
SMALLEST = {
    "preset": "tiny",
    "name": "stub",
    "backbones": {"tiny-mamba": None},
    "datasets": {"coqa": None, "truthfulqa": None},
    "precision": {"datasets": []},
    "policies": dict.fromkeys(["pruned", "calm-skip", "calm-propagate", "ffn-skip",
                               "ffn-propagate", "mamba-copy", "mamba-skip", "mamba-propagate", "calm-decay",
                               "calm-per-exit", "calm-budget", "ffn-slim", "mamba-slim", "hybrid", "softmax",
                               "self-speculative"]),
}  # fmt: skip
STUB = """
import os
from pathlib import Path

assert os.environ["USE_HUB_KERNELS"] == "NO"  # no job runs code that transformers would fetch
assert os.environ["MPLBACKEND"] == "agg" and os.environ["PYTHONNOUSERSITE"] == "1"
for path in map(Path, snakemake.output):
    path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>" if path.suffix == ".svg" else snakemake.rule)
"""


def snakemake(*options, folder: Path, config: dict, root: Path = ROOT) -> str:
    """What Snakemake says, run in `folder` with this config alone; CalledProcessError carries it if it fails."""
    path = folder / "user.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--snakefile", root / "Snakefile", "--directory", folder,
               "--replace-workflow-config", *options, "--configfile", path]  # fmt: skip
    done = subprocess.run(command, text=True, capture_output=True, check=True)
    return done.stdout + done.stderr


def jobs(text: str) -> dict[str, int]:
    """The table of job counts in a dry run's output; empty if there is nothing to be done."""
    table = re.search(r"^job +count\n-+ +-+\n(.*?)\ntotal +\d+$", text, re.DOTALL | re.MULTILINE)
    if table is None:
        assert "Nothing to be done" in text
        return {}
    return {rule: int(count) for rule, count in (line.split() for line in table[1].splitlines())}


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_a_dry_run_of_each_preset_counts_the_expected_jobs(preset, tmp_path):
    """The paper's is in test_requests."""
    text = snakemake("--dry-run", folder=tmp_path, config={"preset": preset, "revisions": REVISIONS})
    assert jobs(text) == (EXPECTED if preset == "tiny" else WITHOUT_PRECISION) and sum(EXPECTED.values()) <= 80
    assert f"results/{preset}/report.html" in text


def test_all_policies_run_where_all_are_asked_for(tmp_path):
    """On six pairs each, also those that have one dataset by default."""
    counts = jobs(snakemake("--dry-run", folder=tmp_path, config={"group": "all"}))
    assert counts["answer"] == counts["answer_matched"] == counts["adapt"] == counts["evaluate"] == 6


def test_answers_are_all_that_opens_a_model_and_nothing_after_it(tmp_path):
    config = {"preset": "paper", "revisions": REVISIONS, "generation": {"shards": 2}, "wallclock": {"examples": 2}}
    counted = jobs(snakemake("--dry-run", "answers", folder=tmp_path, config=config))
    fetched = {"fetch_backbone": 2, "fetch_dataset": 3, "fetch_corpus": 1}
    trained = {"train_heads": 2, "train_heads_seed": 4, "measure_heads": 2, "settle": 2, "layer_costs": 2}
    answered = {"answer_full": 12, "answer": 12, "adapt": 2, "measure_wallclock": 6}
    assert counted == fetched | trained | answered | {"answers": 1}


def test_a_mistake_in_the_config_ends_in_one_line(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        snakemake("--dry-run", folder=tmp_path, config={"thresholds": [0.5, 1.5]})
    assert caught.value.stderr.splitlines()[-1] == (
        "Error: config key 'thresholds[1]': 1.5 must be less than or equal to 1"
    )
    assert "Traceback" not in caught.value.stderr and 'File "' not in caught.value.stderr


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the pipeline whose scripts write their outputs and do nothing else, but `estimate` and `report`."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("workflow", "report", "envs", "profiles"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, root / name)
    scripts = root / "workflow/scripts"
    for script in {*scripts.glob("*.py")} - {scripts / "estimate.py", scripts / "report.py"}:
        used = ", ".join(code_digest.modules(script) or ["os"])
        script.write_text(f"{STUB}\n\ndef never():\n    import {used}\n")
    return root


@pytest.fixture(scope="module")
def finished(copy):
    """The copy after a run of the smallest config, from a notebook's shell and without the profile that it names."""
    with pytest.MonkeyPatch.context() as shell:
        shell.setenv("MPLBACKEND", "module://of.a.notebook")
        shell.setenv("SNAKEMAKE_PROFILE", str(copy / "gone"))
        said = snakemake("--cores", "2", "--verbose", "--profile", "none", folder=copy, config=SMALLEST, root=copy)
    (copy / "said.txt").write_text(said)
    return copy


def dry_run(root: Path, **changes) -> dict[str, int]:
    return jobs(snakemake("--dry-run", folder=root, config={**SMALLEST, **changes}, root=root))


def test_the_report_is_made_by_a_second_call_within_the_run(finished):
    results = finished / "results/stub"
    html = (results / "report.html").read_text()
    for name in ("quality_triviaqa.png", "exits_tiny-transformer.png", "settle.png", "results.csv", "claims.html",
                 "provenance.html"):  # fmt: skip
        assert name in html
    assert json.loads((results / "config.json").read_text()) == SMALLEST
    assert "Missing metadata" not in (results / "logs/report.log").read_text()


def test_a_run_prints_its_estimate_once_before_its_first_job_and_so_does_the_rule(finished):
    """The report's second call reads the Snakefile again, and so would each job on a cluster."""
    said = (finished / "said.txt").read_text()
    assert said.count("Estimate for stub") == 1 and said.index("Estimate for stub") < said.index("rule fetch_")
    asked = snakemake("estimate", "--cores", "1", "--quiet", "all", folder=finished, config=SMALLEST, root=finished)
    assert asked.count("Estimate for stub") == 1 and f" {sum(jobs(said).values())} jobs: " in asked


def test_waiting_jobs_are_looked_at_once_for_each_that_ended(finished):
    """And not every so often, by as many timers as jobs have ended."""
    said = (finished / "said.txt").read_text()
    ended = said.count("Finished jobid:")
    assert ended > 20 and said.count("Ready jobs:") <= ended + 1


def test_the_page_embeds_one_format_of_each_figure(finished):
    html = (finished / "results/stub/report.html").read_text()
    figures = {path.name for path in (finished / "results/stub/figures").iterdir()}
    assert len(figures) > 20
    embedded = [name for name in figures if f";filename={name};base64," in html]
    assert embedded and all(name.endswith(".png") for name in embedded)
    assert len(embedded) == len(figures) / 2


def test_fetch_gets_models_and_data_and_nothing_else(tmp_path):
    text = snakemake("--dry-run", "fetch", folder=tmp_path, config={"preset": "paper", "revisions": REVISIONS})
    assert jobs(text) == {"fetch_backbone": 2, "fetch_dataset": 3, "fetch_corpus": 1, "fetch": 1}


def test_a_second_run_does_nothing_also_where_modules_were_touched(finished):
    """What an edit of one runs again is in test_reruns."""
    for module in (finished / "workflow/scripts/early_exit").rglob("*.py"):
        module.touch()
    assert dry_run(finished) == {}


def test_other_thresholds_run_their_policy_and_nothing_before_it(finished):
    policies = {**SMALLEST["policies"], "calm-copy": {"thresholds": [0.4, 0.6]}}
    after = ["tables", "compare", "claims", "figures", "promise", "provenance", "report", "all"]
    after = dict.fromkeys(after, 1)
    own = {"calibrate": 1, "answer": 1, "evaluate": 1}
    assert dry_run(finished, policies=policies) == own | after


def test_another_promise_answers_nothing_and_scores_nothing(finished):
    """Calibrated thresholds are of the grid, which is answered whole."""
    more = ["calibrate", "promise", "tables", "figures", "provenance", "report", "all"]
    rerun = dry_run(finished, calibration={"promises": {"same-answer": {"epsilon": 0.1}, "no-loops": None}})
    assert {rule: rerun.get(rule) for rule in more} == dict.fromkeys(more, 1)
    assert not {"answer", "answer_full", "train_heads", "evaluate"} & rerun.keys()
    assert "calibrate" not in dry_run(finished, calibration={"splits": 10})


def test_without_promises_nothing_is_calibrated(tmp_path):
    promises = yaml.safe_load((ROOT / "workflow/presets/tiny.yaml").read_text())["calibration"]["promises"]
    config = SMALLEST | {"calibration": {"promises": dict.fromkeys(promises)}}
    counted = jobs(snakemake("--dry-run", folder=tmp_path, config=config))
    assert not {"calibrate", "promise"} & counted.keys() and counted["answer"] == 1


def test_timing_the_settings_answers_nothing(finished):
    rerun = dry_run(finished, wallclock={"examples": 2})
    assert rerun["measure_wallclock"] == 1
    assert not {rule for rule in rerun if rule.startswith(("fetch", "train", "answer", "calibrate", "evaluate"))}


def test_another_prompt_answers_again_but_trains_nothing(finished):
    rerun = dry_run(finished, datasets={**SMALLEST["datasets"], "triviaqa": {"prompt": "lm-eval"}})
    assert rerun["fetch_dataset"] == 1 and rerun["answer"] == rerun["evaluate"] == 1
    assert "train_heads" not in rerun and "fetch_backbone" not in rerun


def test_a_change_is_seen_beside_one_of_the_data(finished):
    """Jobs after the check are looked at for changes of their own."""
    rerun = dry_run(finished, datasets={"truthfulqa": None}, distillation={"k": 3})
    assert rerun["train_heads"] == 1 and rerun["train_heads_seed"] == 2


def test_texts_that_overlap_end_the_run_before_it_trains(copy):
    script = copy / "workflow/scripts/check_disjoint.py"
    kept = script.with_suffix(".kept")
    shutil.copy2(script, kept)  # with its date: a younger script would be run again
    script.write_text("raise SystemExit('Error in check_disjoint: d1 = t1')")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        snakemake("--cores", "1", folder=copy, config={**SMALLEST, "name": "apart"}, root=copy)
    shutil.move(kept, script)
    assert "Error in check_disjoint: d1 = t1" in caught.value.stdout + caught.value.stderr
    assert {path.name for path in (copy / "results/apart/data").iterdir()} == {"corpus.parquet", "triviaqa.parquet"}
    assert not any((copy / "results/apart" / name).exists() for name in ("heads", "quality", "tables"))


def test_other_seeds_and_recipes_train_what_is_missing_and_measure_again(finished):
    after = dict.fromkeys(["head_tables", "figures", "provenance", "report", "all"], 1)
    assert dry_run(finished, head_quality={"seeds": 2}) == after | {"measure_heads": 1}
    more = {"seeds": 5, "recipes": ["paper", "calm"]}  # 2 seeds more of one, 5 of the other
    both = dry_run(finished, head_quality=more, recipes={"calm": ["calm"]})
    assert both == after | {"train_heads": 1, "train_heads_seed": 2 + 4, "measure_heads": 2}


def test_without_a_policy_that_uses_heads_none_is_trained(tmp_path):
    config = SMALLEST | {"policies": SMALLEST["policies"] | dict.fromkeys(["calm-copy", "ffn-copy"])}
    text = snakemake("--dry-run", folder=tmp_path, config=config)
    assert not [rule for rule in jobs(text) if "heads" in rule or rule.startswith("head_")]


def test_a_head_from_outside_adds_its_own_training_and_an_edit_of_its_file_repeats_that(finished):
    """Besides, all costs are counted anew, which takes no model. How often a training is saved changes no head."""
    file = finished / "heads/mine.py"
    file.parent.mkdir()
    file.write_text("class Mine:\n    pass\n")
    mine = {"kind": "head", "recipe": "own", "head": "mine", "state_fill": "copy"}
    more = {
        "heads": {"mine": {"kind": "heads/mine.py:Mine", "width": 4}},
        "recipes": {"own": ["mine"]},
        "policies": {**SMALLEST["policies"], "mine-copy": mine},
        "distillation": {"checkpoint_seconds": 7},
    }
    rerun = dry_run(finished, **more)
    assert not any(rule.startswith("fetch_") for rule in rerun)
    once = ("train_heads", "calibrate", "answer", "evaluate", "layer_costs")
    assert {rule: rerun[rule] for rule in once} == dict.fromkeys(once, 1)

    target = "results/stub/evaluated/tiny-transformer/triviaqa.parquet"
    snakemake("--cores", "2", target, folder=finished, config=SMALLEST | more, root=finished)
    file.write_text("class Mine:\n    wider = True\n")
    again = jobs(snakemake("--dry-run", target, folder=finished, config=SMALLEST | more, root=finished))
    once = ("train_heads", "answer", "layer_costs")
    assert {rule: again[rule] for rule in once} == dict.fromkeys(once, 1)


def test_an_edited_source_is_fetched_again(finished):
    source = finished / "workflow/resources/tiny/triviaqa/test.jsonl"
    before = source.read_text()
    source.write_text(before + "\n")
    rerun = dry_run(finished)
    assert rerun["fetch_dataset"] == 1 and "fetch_backbone" not in rerun and "train_heads" not in rerun
    source.write_text(before)


def test_a_script_uses_what_it_imports_and_what_that_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(code_digest, "SCRIPTS", tmp_path)
    files = {"a": "from early_exit.room.b import x", "room/__init__": "from early_exit import late",
             "room/b": "import early_exit.c", "c": "import os", "d": "", "late": ""}  # fmt: skip
    for name, text in {"__init__": "", **files}.items():
        path = tmp_path / f"early_exit/{name}.py"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    script = tmp_path / "script.py"
    script.write_text("def late():\n    from early_exit import a\n")
    of_a = ["a", "c", "late", "room", "room.b"]
    assert code_digest.modules(script) == ["early_exit", *(f"early_exit.{name}" for name in of_a)]
    before = code_digest.digest(script)
    for name, changes in (("d", False), ("c", True), ("room/__init__", True)):
        (tmp_path / f"early_exit/{name}.py").write_text(f"import sys  # {name}")
        code_digest._content_digest.cache_clear()
        assert (code_digest.digest(script) != before) == changes
        before = code_digest.digest(script)


def rules() -> dict[str, str]:
    """The text of every rule that runs something, by name."""
    found = {}
    for path in RULE_FILES:
        for block in re.split(r"^(?= *rule )", path.read_text(), flags=re.MULTILINE)[1:]:
            found[re.match(r" *rule (\w+):", block)[1]] = textwrap.dedent(block)
    del found["fetch"], found["answers"]  # they have inputs alone
    return found


@pytest.mark.parametrize("rule", rules())
def test_each_rule_has_a_log_an_environment_and_the_script_of_its_name(rule):
    text = rules()[rule]
    for directive in ("log", "benchmark", "conda", "threads"):
        no_file = directive == "benchmark" and rule in ("estimate", "clean_answers")  # which run whenever asked for
        assert bool(re.search(rf"^ +{directive}:", text, re.MULTILINE)) != no_file
    script = "answer" if rule in ANSWERED_BY.values() else rule
    assert f'"../scripts/{script}.py"' in text
    assert not re.search(r"\blambda\b|^    (run|message):", text, re.MULTILINE)


def test_the_report_s_menu_has_one_name_for_each_number():
    files = [*RULE_FILES, SCRIPTS / "early_exit/experiment/figures.py"]
    found = {match for path in files for match in re.findall(r'"(\d)\. ([^"]+)"', path.read_text())}
    assert len(found) >= 7 and len(dict(found)) == len(found)


def test_captions_and_environments_are_there():
    text = "".join(rules().values()) + (ROOT / "Snakefile").read_text()
    for path in re.findall(r'"(?:\.\./\.\./)?((?:report|envs)/\w+\.\w+)"', text):
        assert (ROOT / path).is_file(), path
