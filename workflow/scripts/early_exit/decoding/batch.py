"""The rows that run together, and everything that keeps a state for each of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from early_exit.decoding.fills import Fill
from early_exit.decoding.next_token import GreedyDecoding
from early_exit.decoding.prompt_passes import PromptPasses
from early_exit.decoding.requests import Generation
from early_exit.decoding.stopping import StopRule
from early_exit.models.backbone import Backbone
from early_exit.models.caches import AttentionState, RecurrentState
from early_exit.policies.base import FullDepth, Policy


@dataclass(frozen=True)
class Decoder:
    """A backbone, the policy that lets tokens leave it, and the fill of the blocks they skip.

    Args:
        prompt_backbone: runs the prompts, if not `backbone`: the same model with at least its blocks.
        step: takes the running rows of a batch further, if not `loop.decode_one_token`.
        drafted: how many tokens of a row a step reads at most, beside its last one.
    """

    backbone: Backbone
    policy: Policy = field(default_factory=FullDepth)
    fill: Fill = field(default_factory=Fill)
    prompt_backbone: Backbone | None = None
    step: "Callable[[Batch], None] | None" = None
    drafted: int = 0

    @property
    def largest_backbone(self) -> Backbone:
        """The backbone that runs the prompts, which has all blocks that any pass runs."""
        return self.prompt_backbone or self.backbone

    @property
    def exits_read(self) -> Sequence[int]:
        """The blocks whose hidden states of the prompt the policy reads."""
        return self.policy.exits if self.policy.reads_prompt else ()


@dataclass
class Batch:
    """The running rows, row k in slot k, with the caches, policy, fill and token choice that follow the slots."""

    decoder: Decoder
    rule: StopRule
    greedy_decoding: GreedyDecoding
    state: AttentionState | RecurrentState
    prompts: PromptPasses
    running: list[Generation] = field(default_factory=list)

    def release_finished(self) -> list[Generation]:
        """Take finished rows out; the last running row moves into each freed slot, so that rows stay a prefix."""
        finished = []
        for slot in reversed(range(len(self.running))):
            if self.running[slot].stop_reason is None:
                continue
            finished.append(self.running[slot])
            mover = self.running.pop()
            if slot < len(self.running):
                self.running[slot] = mover
                for follower in (self.state, self.decoder.fill, self.greedy_decoding, self.decoder.policy):
                    follower.move(len(self.running), slot)
        return finished


def open_batch(
    decoder: Decoder, rule: StopRule, prompts: PromptPasses, shape: tuple[int, int], repetition_penalty: float
) -> Batch:
    """An empty batch; `shape` is the number of its rows, and the tokens that each has room for."""
    backbone, (slots, capacity) = decoder.backbone, shape
    decoder.policy.open(slots)
    decoder.fill.open(slots)
    greedy = GreedyDecoding(repetition_penalty)
    greedy.open(slots, backbone.vocabulary, backbone.device)
    return Batch(decoder, rule, greedy, backbone.new_state(slots, capacity), prompts)
