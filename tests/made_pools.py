"""Made-up losses of units, a known number of which err at each setting."""

import numpy as np

from early_exit.evaluation import promise, risks
from early_exit.experiment.config.run import Promise

PROMISE = Promise(risk="disagreement", epsilon=0.2, delta=0.1)
MEAN = Promise(risk="disagreement", epsilon=0.2, method="conformal-risk-control")
GRID = (0.9, 0.7, 0.5)
LABELS = {"backbone": "b", "family": "mamba", "dataset": "triviaqa", "policy": "p", "head": "", "state_fill": ""}


def make_pool(errors, units=200, full_errors=0, calibration=100, **labels):
    """A pool in which so many units, the last ones, have a loss at each setting; the first are calibrated on."""
    losses = np.array([[float(unit >= units - count) for count in errors] for unit in range(units)])

    def sample(values, settings, blocks):
        work = np.broadcast_to(blocks, values.shape), np.full_like(values, 16.0)
        every = dict.fromkeys(risks.RISKS, values), *work
        groups = np.array([f"u{unit:04d}" for unit in range(units)])
        return risks.UnitLosses(settings, groups, *every, dict.fromkeys(risks.RISKS, True))

    own = sample(losses, GRID[: len(errors)], np.arange(12.0, 12.0 - len(errors), -1))
    full = sample((np.arange(units) < full_errors).astype(float)[:, None], (1.0,), [16.0])
    return promise.PooledUnits(LABELS | labels, own, full, np.arange(units) < calibration)
