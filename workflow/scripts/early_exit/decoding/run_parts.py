"""A run's settings, and the decoder that answers each of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from early_exit.decoding import speculate
from early_exit.decoding.batch import Decoder
from early_exit.decoding.fills import FILLS, Fill
from early_exit.experiment.config.policies import Policy, Pruned, SelfSpeculative
from early_exit.models.backbone import Backbone
from early_exit.policies import build
from early_exit.policies.base import Given


@dataclass(frozen=True)
class RunPart:
    """Some of a run's settings, and the decoder that answers at all of them."""

    settings: Collection[float]
    decoder: Decoder


def whole(policy: Policy, backbone: Backbone, settings: Sequence[float], given: Given) -> list[RunPart]:
    """One decoder for all settings, of a policy that tells rows apart by their setting."""
    fill = FILLS[backbone.family][policy.fill] if policy.fill else Fill
    return [RunPart(settings, Decoder(backbone, build.build(policy, backbone, given), fill()))]


def pruned(policy: Pruned, backbone: Backbone, dropped: Mapping[float, Collection[int]]) -> list[RunPart]:
    """A decoder for each setting, without the blocks that are dropped at it."""
    prompt = backbone if policy.prompt == "full" else None
    return [
        RunPart([setting], Decoder(backbone.without(blocks), prompt_backbone=prompt))
        for setting, blocks in dropped.items()
    ]


def self_speculative(
    policy: SelfSpeculative, backbone: Backbone, settings: Sequence[float], exits: Sequence[int]
) -> list[RunPart]:
    """A decoder for each number of drafts; drafts leave at the policy's exit, or at the backbone's first."""
    exit_block = policy.exit or exits[0]
    return [
        RunPart([count], Decoder(backbone, step=speculate.step(exit_block, int(count)), drafted=int(count)))
        for count in settings
    ]
