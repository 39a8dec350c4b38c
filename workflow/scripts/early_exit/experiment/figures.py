"""The figures of the report: one entry of KINDS for each kind.

A new figure takes an entry here, a function of the entry's name in package `report` (see `report.style.draws_figure`)
and a caption `report/NAME.rst`. The Snakefile reads this list before any job runs, so nothing heavy is imported here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from early_exit.base.records import COMPARED_HEADS
from early_exit.experiment import runs
from early_exit.experiment.config.experiment import Experiment

Subjects = list[tuple[str, str]]  # (dataset or backbone, promise), each empty if a figure is not of a single one

COMPUTE, EXITS, HEADS, PROMISES, PRECISION = (
    "1. Quality against compute", "2. Where tokens exit", "3. Exit heads", "4. Promises", "8. Precision",
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One figure.

    Args:
        kind: the name of its entry in KINDS, of the function that draws it, and of its caption.
        category: where it stands in the report's menu.
        tables: what it is drawn from: names of files in `tables/`, or `thresholds`, all calibrated thresholds.
        key: the dataset or backbone that it is of, empty for all.
        promise: the promise that it is of, empty for all or none.
        paper_only: whether the tables' rows are only those of the paper's own policies.
    """

    kind: str
    category: str
    tables: tuple[str, ...]
    key: str = ""
    promise: str = ""
    paper_only: bool = False

    @property
    def name(self) -> str:
        """The stem of its files."""
        return "_".join(filter(None, (self.kind, self.key, self.promise)))

    @property
    def group(self) -> str:
        """Where it stands within its category."""
        return self.promise or self.key or "all"

    @property
    def label(self) -> str:
        return " ".join([self.kind.replace("_", " "), self.key if self.promise else ""]).rstrip()


@dataclass(frozen=True)
class Kind:
    """A kind of figure: `subjects` are what there is one figure for each of; the rest as in `Figure`."""

    name: str
    subjects: Callable[[Experiment], Subjects]
    tables: tuple[str, ...]
    category: str
    paper_only: bool = False


def figures(experiment: Experiment) -> list[Figure]:
    """All figures of the report."""
    return [
        Figure(kind.name, kind.category, kind.tables, key, promise, kind.paper_only)
        for kind in KINDS
        for key, promise in kind.subjects(experiment)
    ]


def _once(experiment: Experiment) -> Subjects:
    return [("", "")]


def _datasets(experiment: Experiment) -> Subjects:
    return [(dataset, "") for dataset in experiment.datasets]


def _kinds_run(experiment: Experiment) -> set[str]:
    """The kinds of all policies that run somewhere."""
    return {experiment.policies[run.policy].kind for run in runs.runs(experiment)}


def _datasets_with_losses(experiment: Experiment) -> Subjects:
    """Where some policy may lose quality."""
    return _datasets(experiment) if _kinds_run(experiment) - {"full", "oracle", "self-speculative"} else []


def _datasets_with_pruning(experiment: Experiment) -> Subjects:
    """Where some policy is compared with static pruning."""
    kinds = _kinds_run(experiment)
    return _datasets(experiment) if "pruned" in kinds and kinds - {"full", "pruned", "self-speculative"} else []


def _backbones_with_paper_heads(experiment: Experiment) -> Subjects:
    plain = [run.backbone for run in runs.head_runs(experiment) if experiment.policies[run.policy].is_plain]
    return [(backbone, "") for backbone in dict.fromkeys(plain)]


def _trained_backbones(experiment: Experiment) -> Subjects:
    return [(backbone, "") for backbone in dict(runs.trainings(experiment))]


def _measured_backbones(experiment: Experiment) -> Subjects:
    """Those whose heads' quality is measured."""
    return [(backbone, "") for backbone in dict(runs.measured_heads(experiment))]


def _measured_backbones_with_pairs(experiment: Experiment) -> Subjects:
    """Those of them with heads that are compared with each other."""
    recipes = dict.fromkeys(recipe for _, recipe in runs.measured_heads(experiment))
    kinds = {experiment.heads[head].kind for recipe in recipes for head in experiment.recipes[recipe]}
    return _measured_backbones(experiment) if any(kinds.issuperset(pair) for pair in COMPARED_HEADS) else []


def _once_with_measured_heads(experiment: Experiment) -> Subjects:
    return _once(experiment) if runs.measured_heads(experiment) else []


def _backbones_and_promises(experiment: Experiment) -> Subjects:
    backbones = dict.fromkeys(pair.backbone for pair in runs.calibrations(experiment))
    return list(product(backbones, experiment.calibration.promises))


def _once_with_transfer(experiment: Experiment) -> Subjects:
    """If thresholds of one dataset can be tested on another."""
    return _once(experiment) if _backbones_and_promises(experiment) and len(experiment.datasets) > 1 else []


def _once_with_scored_blocks(experiment: Experiment) -> Subjects:
    return _once(experiment) if runs.measured_blocks(experiment) else []


def _once_with_precision(experiment: Experiment) -> Subjects:
    return _once(experiment) if runs.precision_pairs(experiment) else []


KINDS = (
    Kind("quality", _datasets, ("results",), COMPUTE, paper_only=True),
    Kind("policies", _datasets_with_losses, ("policies",), COMPUTE),
    Kind("equal_compute", _datasets_with_pruning, ("equal_compute", "results"), COMPUTE),
    Kind("exits", _backbones_with_paper_heads, ("exits",), EXITS, paper_only=True),
    Kind("settle", _once, ("settle", "training"), EXITS),
    Kind("pruned_blocks", _once_with_scored_blocks, ("block_scores", "pruned_blocks"), EXITS),
    Kind("training", _trained_backbones, ("training",), HEADS),
    Kind("head_ranking", _once_with_measured_heads, ("heads",), HEADS),
    Kind("head_savings", _once_with_measured_heads, ("heads",), HEADS),
    Kind("head_cost", _once_with_measured_heads, ("heads",), HEADS),
    Kind("head_differences", _measured_backbones_with_pairs, ("head_differences",), HEADS),
    Kind("reliability", _measured_backbones, ("reliability",), HEADS),
    Kind("calibration", _backbones_and_promises, ("thresholds", "results"), PROMISES),
    Kind("promise", _backbones_and_promises, ("promise", "results"), PROMISES),
    Kind("transfer", _once_with_transfer, ("promise",), PROMISES),
    Kind("precision", _once_with_precision, ("precision",), PRECISION),
    Kind("precision_positions", _once_with_precision, ("precision",), PRECISION),
)
SPEED = Figure("speed", "7. Speed", ("speed",))  # of `snakemake speed`, which the report does not wait for
