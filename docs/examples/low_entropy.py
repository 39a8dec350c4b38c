"""A confidence without training: how far the entropy of the next token is below the entropy of a blind guess."""

import math

from early_exit import Check, LogitConfidence


class LowEntropy(LogitConfidence):
    def of(self, exit_block, logits):
        """The confidence of each row, 0 to 1: (rows, vocabulary) to (rows,)."""
        log_p = logits.log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        return 1 - entropy / math.log(logits.shape[-1])

    @classmethod
    def check(cls, hidden, lm_head):
        """What one check costs: the LM head, from whose logits a token that leaves is then chosen."""
        return Check(lm_head, gives_logits=True)
