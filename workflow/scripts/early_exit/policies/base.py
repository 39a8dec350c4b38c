"""Policies decide after which exit block a row leaves. A policy is asked after each exit's block, for all live rows.

A policy knows exits, thresholds and confidences; it knows neither blocks nor caches of the backbone. Its decision about
a row depends on that row alone: on its hidden states, and on what it has generated so far, which `thresholds` may use.
So no result depends on the batch that a row ran in. `confidences` has policies that go by how sure a check is,
`thresholds` rules for thresholds that adapt, `forced` policies that ask no check.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from early_exit.base.records import Manifest
from early_exit.experiment.config import policies as entries
from early_exit.models.backbone import Backbone


class Row(Protocol):
    """A running answer as a policy sees it; `exit_blocks[i]` blocks were run for the pass that gave token i."""

    setting: float
    token_ids: list[int]
    exit_blocks: list[int]

    @property
    def example_id(self) -> str: ...

    @property
    def prompt_tokens(self) -> int: ...


@dataclass(frozen=True)
class Decision:
    """Which live rows leave after an exit's block: `leaves` is bool (rows,).

    `logits` (rows that leave, vocabulary), if the check has computed them: they are not computed again.
    """

    leaves: Tensor
    logits: Tensor | None = None


@dataclass(frozen=True)
class Given:
    """What a policy may need beside its entry in the config.

    `head_folder` is its recipe's folder; `plan` what rule `adapt` wrote for it; `rates` the shares of exits, by
    setting, of the run that `random` matches; `max_new_tokens` and `seed` are the run's.
    """

    manifest: Manifest
    exits: Sequence[int]
    max_new_tokens: int
    seed: int
    head_folder: Path | None = None
    plan: Mapping[str, Any] | None = None
    rates: Mapping[float, Sequence[float]] | None = None


class Policy:
    """The decoding loop's side of a policy; this one never lets a row leave.

    A policy that keeps a state for each row has it follow the rows: `open`, `admit` and `move` say which row is in
    which slot, `begin` starts a step of all rows, and `leave` takes out the rows that leave.
    """

    entry: ClassVar[type[entries.Policy] | None] = None  # the class of the config's entries that it is made from
    exits: Sequence[int] = ()  # blocks after which `leave` is called, ascending
    reads_prompt: bool = False  # whether `admit` needs the prompt's hidden states
    asks_lm_head: bool = False  # whether `leave` computes logits, which take memory

    @classmethod
    def from_entry(cls, entry: entries.Policy, backbone: Backbone, given: Given) -> Self:
        """The policy of a config's entry, for a whole backbone."""
        return cls()

    def open(self, slots: int) -> None:
        """Make room for `slots` rows."""

    def admit(self, slots: Tensor, hidden: Mapping[int, Tensor], source: Tensor) -> None:
        """Start rows in `slots`: rows `source` of the prompts' hidden states (rows, T, hidden) after each exit."""

    def move(self, source: int, target: int) -> None:
        """Copy slot `source` to slot `target`."""

    def begin(self, count: int) -> None:
        """Start a step of the rows in slots 0..count-1."""

    def thresholds(self, rows: Sequence[Row]) -> Tensor:
        """The thresholds of the coming step, (rows, exits): here each row's setting at every exit."""
        return torch.tensor([row.setting for row in rows])[:, None].expand(-1, len(self.exits))

    def leave(self, exit_block: int, hidden: Tensor, thresholds: Tensor) -> Decision:
        """Decide for the live rows, in order: hidden states (rows, 1, hidden) after `exit_block`, thresholds (rows,).

        Rows that leave are not among the live rows of the step's later exits.
        """
        return Decision(torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device))


class FullDepth(Policy):
    """No row leaves: the full model, and every statically pruned one."""
