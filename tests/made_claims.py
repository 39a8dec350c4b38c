"""Runs in which the effect that a claim is about is known, and the verdicts on them."""

from early_exit.evaluation import claims
from made_runs import make_runs

DEPTH = 16
AGAINST = {
    "mamba-heads-over-linear": ("mamba-copy", "calm-copy"),
    "mamba-heads-over-ffn": ("mamba-copy", "ffn-copy"),
    "exits-over-pruning": ("calm-copy", "pruned"),
}
TRANSFORMER_SETS = ("triviaqa", "coqa", "truthfulqa")


def table(fill=5.0):
    """A cost table whose only part that counts is what propagate costs for a skipped block."""
    cost = {"linear": fill, "recurrence": 0, "per_context": 0}
    return {"depth": DEPTH, "state_fill": {"propagate": cost}}


def judged(cells, fill=5.0):
    """The table of claims on these runs."""
    return claims.test(cells, {cell.backbone: table(fill) for cell in cells}, experiment="mine", preset="tiny")


def curve(score):
    """A policy's settings at a mean score `score`, lower where it saves more."""
    return [(0.5, 0.4, score - 20.0), (0.9, 0.0, score)]


def compared(claim, effect, noise=0.0, **options):
    """Cells of three datasets in which the claim's effect is `effect` points."""
    one, other = AGAINST[claim]
    points = {other: curve(70.0), one: curve(70.0 + effect)}
    if other == "pruned":
        points[other] = [(8, 0.4, 50.0), (2, 0.0, 70.0)]
        # The full model is pruning's first point and saves nothing, either: their mean is the curve's height there.
        points[one] = [(0.5, 0.4, 50.0 + effect), (0.9, 0.0, 80.0 + effect)]
    return [make_runs(points, dataset=d, noise=noise, seed=k, **options) for k, d in enumerate(TRANSFORMER_SETS)]
