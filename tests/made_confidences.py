"""Made-up confidences that grow with depth, and the costs of the model they belong to."""

import numpy as np

from early_exit.costs import passes as costs
from early_exit.experiment.config.policies import CHECKS
from early_exit.policies.measured import MeasuredConfidences

LLAMA = {"model_type": "llama", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
TABLE = costs.cost_table(LLAMA, {"calm": costs.linear(64)}, CHECKS)
PRICE = costs.ExitPrice((4, 5, 6, 7), "calm", "propagate")


def surer_with_depth(generator, passes, unsure=1.0):
    """Confidences (passes, 4) that mostly grow with depth; the higher `unsure`, the lower."""
    noise = generator.normal(size=(passes, 1)) + 0.5 * generator.normal(size=(passes, 4))
    return 1 / (1 + np.exp(unsure - 0.5 * np.arange(4) - noise))


def measured(generator, lengths):
    """Confidences of answers with these numbers of passes; the surer, the more often the exit is right."""
    passes = sum(lengths)
    agreement = generator.random((passes, 4)) < (sure := surer_with_depth(generator, passes))
    prompt_tokens = generator.integers(10, 60, size=len(lengths))
    return MeasuredConfidences(
        sure, agreement, np.repeat(np.arange(len(lengths)), lengths), prompt_tokens, TABLE, PRICE
    )
