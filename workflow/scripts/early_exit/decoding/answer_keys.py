"""What an answer depends on beside its example and prompt, as one digest for each policy and setting.

The digest goes by contents, not by names: a policy that is renamed, a head that is trained again to the same weights,
or another grid of settings changes no key.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from early_exit.experiment import code_digest
from early_exit.experiment.config.policies import Policy
from early_exit.heads import store
from early_exit.policies.base import Given
from early_exit.policies.plan import part_of_plan
from early_exit.sources import user_code

ENGINE = Path(__file__).with_name("answer.py")  # what it imports computes the answers


@dataclass(frozen=True)
class Engine:
    """What all answers of a job depend on: the code that computes them, the backbone, the rules, the device."""

    shared: Mapping[str, Any]

    def key(self, policy: Policy, setting: float, given: Given, dropped: Mapping[float, tuple[int, ...]]) -> str:
        """The digest for one setting of a policy; `dropped` are the blocks that a pruned backbone lacks at each."""
        kinds, trained = [policy.kind], {}
        if policy.trained:
            head = policy.trained[1]
            trained = store.description(given.head_folder, head)
            kinds.append(trained["design"]["kind"])
        parts = {
            **self.shared,
            "policy": policy.at(setting),
            "exits": list(given.exits) if policy.uses_exits else [],
            "head": trained,
            "user_code": user_code.digests(kinds),
            "plan": part_of_plan(given.plan, setting),
            "rates": (given.rates or {}).get(setting),
            "seed": given.seed if policy.matched else None,
            "dropped": list(dropped.get(setting, ())),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def engine(**shared: Any) -> Engine:
    """The engine of this code, with what else all answers of a job depend on, as JSON can hold it."""
    return Engine({"engine": code_digest.digest(ENGINE), **shared})
