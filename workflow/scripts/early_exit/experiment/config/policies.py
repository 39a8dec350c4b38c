"""Exit policies: one class per kind, which says what code without torch has to know of it.

A policy's *settings* are the numbers that it is run at: thresholds on a confidence, budgets, exits in a row, exit
blocks, blocks dropped, tokens drafted. How thresholds follow from a setting is the nested `rule` of the kinds whose
confidence is a number on a scale; key `adapt` chooses it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter

from early_exit.base.errors import hint
from early_exit.costs.parts import Cost, linear
from early_exit.costs.passes import Check, ExitPrice
from early_exit.experiment.config.entry import (
    Count,
    Entry,
    Family,
    Number,
    PositiveShare,
    Problem,
    Share,
    derived,
    is_ascending,
    union_of,
)

STATE_FILLS: dict[Family, tuple[str, ...]] = {
    "transformer": ("copy", "propagate", "deferred"),
    "mamba": ("skip", "propagate", "deferred"),
}
UNSORTED = "must be ascending, without repeats"

StateFill = Literal["copy", "skip", "propagate", "deferred"]
Settings = Annotated[list[Share], Field(min_length=1)]
Counts = Annotated[list[Count], Field(min_length=1)]

_FILL = "What skipped blocks' caches get: copy (transformer), skip (mamba), propagate or deferred (both)."


# --- How thresholds follow from a setting ----------------------------------------------------------------------------


class Rule(Entry):
    """How the thresholds of a row follow from its setting.

    `listed` is the key that lists the settings. `is_planned`: the rule needs confidences measured on the full model's
    answers to the calibration questions. `is_calibrated`: one of its settings is chosen on these questions.
    """

    listed: ClassVar[str] = "thresholds"
    setting_kind: ClassVar[str] = "threshold"
    is_planned: ClassVar[bool] = False
    is_calibrated: ClassVar[bool] = True

    def settings(self) -> list[float]:
        return list(getattr(self, self.listed))

    def problems(self) -> Iterator[Problem]:
        if not is_ascending(self.settings()):
            yield (self.listed,), self.settings(), UNSORTED


class SameThreshold(Rule):
    """The setting is the threshold, the same for all tokens and exits."""

    adapt: Literal["none"] = Field("none", description="The setting is the threshold, for all tokens and exits.")
    thresholds: Settings | None = Field(
        None, description="Confidences above which a token leaves, ascending; null takes the top-level key."
    )


class DecayingThreshold(Rule):
    """It falls over the answer, from 0.9 L + 0.1 at its beginning (CALM, arXiv 2207.07061, the decaying threshold)."""

    adapt: Literal["decay"] = Field(description="The threshold falls over the answer (CALM, arXiv 2207.07061).")
    thresholds: Settings | None = Field(
        None, description="Confidences above which a token leaves, ascending; null takes the top-level key."
    )
    temperature: Annotated[Number, Field(ge=0)] = Field(
        4.0, description="How fast a decaying threshold falls; over a whole answer to exp(-temperature) of its excess."
    )


class ThresholdPerExit(Rule):
    """One threshold for each exit, chosen for a share of tokens that must stay the full model's."""

    listed: ClassVar[str] = "levels"
    setting_kind: ClassVar[str] = "level"
    is_planned: ClassVar[bool] = True

    adapt: Literal["per-exit"] = Field(description="One threshold for each exit, chosen on the calibration questions.")
    levels: Settings = Field(
        [0.8, 0.9, 0.95, 0.98, 0.99, 1.0],
        description="Shares of calibration tokens that must stay the full model's, ascending; each is one setting.",
    )


class BudgetedThreshold(Rule):
    """The threshold is steered within each answer to spend a share of the full model's computation."""

    listed: ClassVar[str] = "budgets"
    setting_kind: ClassVar[str] = "budget"
    is_planned: ClassVar[bool] = True
    is_calibrated: ClassVar[bool] = False  # the user says what is spent

    adapt: Literal["budget"] = Field(description="Thresholds are steered to spend a share of the full model's FLOPs.")
    budgets: Annotated[list[PositiveShare], Field(min_length=1)] = Field(
        [0.7, 0.8, 0.9],
        description="Shares of the full model's FLOPs that decode passes may take, ascending; each is one setting.",
    )
    horizon: Annotated[Number, Field(ge=1)] = Field(
        4.0, description="Tokens over which what was spent too much or too little is settled."
    )


class SaturationThreshold(SameThreshold):
    """The same, with a grid for cosines, which are close to 1."""

    thresholds: Settings | None = Field(
        [0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999],
        description="Cosines above which a token leaves, ascending; null takes the top-level key.",
    )


class DecayingSaturation(DecayingThreshold):
    """The same, with a grid for cosines, which are close to 1."""

    thresholds: Settings | None = Field(
        [0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999],
        description="Cosines above which a token leaves, ascending; null takes the top-level key.",
    )


AnyRule = union_of((SameThreshold, DecayingThreshold, ThresholdPerExit, BudgetedThreshold), "adapt")
SaturationRule = union_of((SaturationThreshold, DecayingSaturation, ThresholdPerExit, BudgetedThreshold), "adapt")


# --- Kinds of policies -----------------------------------------------------------------------------------------------


class Policy(Entry):
    """A rule for where a token leaves. It runs on every dataset and on every backbone of its state fill's family.

    `listed` is the key that lists its settings, if one does. `uses_exits`: its answers depend on its backbone's exits.
    `leaves`: a check at each exit decides whether a token leaves there, so another policy can match its exits.
    `setting_kind`: what its settings are. `is_plain`: it is one of the paper's (heads with one threshold, pruning, the
    full model, the oracle) or self-speculation. `is_calibrated`: a setting is chosen on the calibration questions.
    `is_planned`: it needs confidences measured on the full model's answers to these questions. `fits_on_calibration`:
    half of them choose its thresholds, so that only the other half may calibrate it.
    """

    listed: ClassVar[str | None] = None
    uses_exits: ClassVar[bool] = True
    leaves: ClassVar[bool] = False
    setting_kind: ClassVar[str] = "none"

    is_plain: ClassVar[bool] = False
    is_calibrated: ClassVar[bool] = False
    is_planned: ClassVar[bool] = False
    fits_on_calibration: ClassVar[bool] = False

    kind: str

    def settings(self, exits: Sequence[int]) -> list[float]:
        """What it is run at, ascending; `exits` are its backbone's."""
        return list(getattr(self, self.listed)) if self.listed else [1.0]

    def at(self, setting: float) -> dict[str, Any]:
        """What it is at one setting, whatever the others are and wherever it runs."""
        values = self.model_dump()
        return {key: value for key, value in values.items() if key not in ("datasets", self.listed)} | {
            "setting": float(setting)
        }

    def safest_first(self, values: Iterable[float]) -> list[float]:
        """Settings in the order in which they come ever less close to the full model.

        The order is known before any answer is looked at: what calibration promises rests on that. A larger setting
        never lets a token leave earlier in the same place (a higher threshold, more exits that must agree, a deeper
        exit, more tokens that must stay the full model's, more computation to spend).
        """
        return sorted(values, reverse=True)

    def runs_on(self, family: Family) -> bool:
        """Whether its state fill, if it has one, is of this family."""
        return self.fill is None or self.fill in STATE_FILLS[family]

    @property
    def fill(self) -> str | None:
        """The name of its state fill; None for a policy that skips no block of a pass."""
        return getattr(self, "state_fill", None)

    @property
    def only_on(self) -> list[str] | None:
        """The datasets that it runs on; None for all."""
        return getattr(self, "datasets", None)

    @property
    def trained(self) -> tuple[str, str] | None:
        """The recipe and the name of its trained head; None for a policy without."""
        return None

    @property
    def matched(self) -> str | None:
        """The policy whose run it matches, if it does."""
        return None

    def price(self, exits: Sequence[int]) -> ExitPrice:
        """What its tokens cost beside their blocks: checks at its exits, fills of the blocks that it skips."""
        return ExitPrice(tuple(exits), self.trained[1] if self.trained else None, self.fill)

    def problems(self, config: Any) -> Iterator[Problem]:
        """Key, value and what is wrong with it in this config."""
        yield from ()


class EveryDataset(Policy):
    """A policy that can be restricted to some datasets."""

    datasets: list[str] | None = Field(
        None, description="Datasets that it runs on, unless `group` is all; null means all."
    )


class Full(Policy):
    """The full model, which all others are compared with."""

    is_plain: ClassVar[bool] = True
    uses_exits: ClassVar[bool] = False
    kind: Literal["full"] = Field(description="Never leave: the measure of all others. There must be one, named full.")


class Oracle(EveryDataset):
    """The most that exits could save while every answer stays the full model's."""

    is_plain: ClassVar[bool] = True
    kind: Literal["oracle"] = Field(description="Leave at the first exit that gives the full model's token: the bound.")

    def problems(self, config):
        if config.generation.repetition_penalty != 1.0:
            why = "has no meaning under generation.repetition_penalty; take one of them away"
            yield ("kind",), "oracle", why


class Pruned(EveryDataset):
    """Static pruning: blocks are left out for good."""

    is_plain: ClassVar[bool] = True
    listed: ClassVar[str] = "drop"
    uses_exits: ClassVar[bool] = False
    setting_kind: ClassVar[str] = "blocks dropped"
    MEASURES: ClassVar[dict[str, str]] = {  # by which blocks are scored; `last` needs no score
        "block-influence": "likeness",
        "angular": "likeness",
        "one-by-one": "loss",
    }

    kind: Literal["pruned"] = Field(description="Leave blocks out for good.")
    drop: Counts = Field(description="How many blocks to leave out; each number is one setting.")
    by: Literal["last", "block-influence", "angular", "one-by-one"] = Field(
        "last",
        description=(
            "Which blocks are left out: those just before the last one; those that turn the hidden state least; those "
            "in a row that turn it least; or greedily, each time the one without which the loss is the least."
        ),
    )
    prompt: Literal["pruned", "full"] = Field(
        "pruned",
        description="Whether the prompt lacks the blocks, too, or runs at full depth as it does under early exits.",
    )

    @property
    def measure(self) -> str | None:
        """The measure that its blocks are scored by, if they are."""
        return self.MEASURES.get(self.by)

    def safest_first(self, values):
        """The fewest dropped blocks first."""
        return sorted(values)

    def problems(self, config):
        if not is_ascending(self.drop):
            yield ("drop",), self.drop, UNSORTED
        for name, backbone in config.backbones.items():
            if self.drop[-1] >= backbone.depth:
                why = f"is too many for '{name}', which has {backbone.depth} blocks"
                yield ("drop",), self.drop[-1], why


class SelfSpeculative(EveryDataset):
    """Self-speculative decoding: the first blocks draft, the rest verify."""

    is_plain: ClassVar[bool] = True
    listed: ClassVar[str] = "draft_tokens"
    setting_kind: ClassVar[str] = "tokens drafted"

    kind: Literal["self-speculative"] = Field(description="Draft with the first blocks and verify with the rest.")
    exit: Count | None = Field(
        None, description="Block after which tokens are drafted; null means each backbone's first exit."
    )
    draft_tokens: Counts = Field(
        [4], description="Tokens drafted before they are verified, at most; each number is one setting."
    )

    def problems(self, config):
        if not is_ascending(self.draft_tokens):
            yield ("draft_tokens",), self.draft_tokens, UNSORTED
        for name, backbone in config.backbones.items():
            if (self.exit or 1) >= backbone.depth:
                yield ("exit",), self.exit, f"leaves '{name}' no block to verify with"


class Fixed(EveryDataset):
    """Every token leaves at one exit."""

    setting_kind: ClassVar[str] = "exit block"

    kind: Literal["fixed"] = Field(description="Leave at one exit; each exit is one setting.")
    state_fill: StateFill = Field(description=_FILL)

    def settings(self, exits):
        return list(exits)


class Random(Policy):
    """Tokens leave at random, as often as another policy's do."""

    kind: Literal["random"] = Field(description="Leave at random exits, as often as another policy's tokens do.")
    match: str = Field(description="The policy whose exits are drawn from, by how often its own run took each.")
    state_fill: StateFill | None = Field(None, description="Follows from `match`.")
    datasets: list[str] | None = Field(None, description="Follows from `match`.")

    @property
    def matched(self):
        return self.match

    def settings(self, exits):
        """None: the run that it matches has them."""
        return []

    def problems(self, config):
        leaving = [name for name, policy in config.policies.items() if policy.leaves]
        if self.match not in leaving and self.match not in config.removed("policies"):
            yield ("match",), self.match, f"is no policy whose tokens leave; {hint(self.match, leaving)}"


class Leaving(EveryDataset):
    """Policies that check at each exit whether a token leaves there."""

    leaves: ClassVar[bool] = True

    state_fill: StateFill = Field(description=_FILL)


class Graded(Leaving):
    """Policies whose confidence is a number on a scale; `rule` turns a setting into thresholds."""

    nested: ClassVar[str] = "rule"

    rule: AnyRule

    @property
    def listed(self):
        return self.rule.listed

    @property
    def setting_kind(self):
        return self.rule.setting_kind

    @property
    def is_calibrated(self):
        return self.rule.is_calibrated

    @property
    def is_planned(self):
        return self.rule.is_planned

    @property
    def fits_on_calibration(self):
        return self.rule.adapt == "per-exit"

    def settings(self, exits):
        return self.rule.settings()

    def problems(self, config):
        yield from self.rule.problems()
        if self.rule.adapt == "per-exit" and config.generation.repetition_penalty != 1.0:
            yield ("adapt",), "per-exit", "has no meaning under generation.repetition_penalty; take one of them away"


class TrainedHead(Graded):
    """A trained head decides (paper, sec. III)."""

    kind: Literal["head"] = Field(description="Leave where a trained head is sure.")
    recipe: str = Field(description="The recipe that its head is trained in.")
    head: str = Field(description="The head that decides.")
    head_state: Literal["skip", "propagate"] = Field(
        "skip",
        description="What a head with a state gets of a token that left before it: nothing, or its hidden state.",
    )

    @property
    def is_plain(self):
        return self.rule.adapt == "none"

    @property
    def trained(self):
        return self.recipe, self.head

    def price(self, exits):
        return replace(super().price(exits), head_state=self.head_state)

    def problems(self, config):
        if self.recipe not in config.recipes:
            yield ("recipe",), self.recipe, f"is unknown; {hint(self.recipe, list(config.recipes))}"
        elif self.head not in config.recipes[self.recipe]:
            yield ("head",), self.head, f"is unknown; {hint(self.head, config.recipes[self.recipe])}"
        yield from super().problems(config)


class Untrained(Leaving):
    """Policies whose confidence needs no training. `check` says what one of their checks costs."""

    @classmethod
    def check(cls, hidden: int, lm_head: Cost) -> Check:
        """One check, for a backbone of this width whose LM head costs so much."""
        return Check(lm_head, gives_logits=True)

    def price(self, exits):
        return replace(super().price(exits), check=self.kind)


class Softmax(Untrained, Graded):
    """The probability of the most probable token (CALM, arXiv 2207.07061)."""

    kind: Literal["softmax"] = Field(description="Leave where the LM head's most probable token is probable enough.")


class Margin(Untrained, Graded):
    """The margin between the two most probable tokens (CALM, arXiv 2207.07061)."""

    kind: Literal["margin"] = Field(description="Leave where the LM head's two most probable tokens are far apart.")


class Saturation(Untrained, Graded):
    """The cosine of the hidden states at two exits (CALM, arXiv 2207.07061)."""

    kind: Literal["saturation"] = Field(description="Leave where the hidden state has settled between two exits.")
    rule: SaturationRule

    @classmethod
    def check(cls, hidden, lm_head):
        """A dot product of two hidden states, from the second exit on."""
        return Check(linear(hidden), at_first_exit=False)


class Patience(Untrained):
    """The same most probable token at so many exits in a row (PABEE, arXiv 2006.04152)."""

    listed: ClassVar[str] = "patience"
    setting_kind: ClassVar[str] = "exits in a row"
    is_calibrated: ClassVar[bool] = True

    kind: Literal["patience"] = Field(description="Leave where exits in a row agree on the most probable token.")
    patience: Counts = Field(
        [2, 3, 4],
        description="Exits in a row at which the token must be the same, ascending; each is one setting.",
    )

    def problems(self, config):
        if not is_ascending(self.patience):
            yield ("patience",), self.patience, UNSORTED


class FilePolicy(Untrained, Graded):
    """A class of the user's, in a Python file: a confidence on a scale, with keys of its own and its own `check`."""

    model_config = ConfigDict(extra="allow")

    kind: Annotated[str, StringConstraints(pattern=r"\.py")] = Field(
        description="path/to/file.py:Class, a confidence of yours, relative to the repository or the working directory."
    )

    @property
    def options(self) -> dict[str, Any]:
        """The keys that the pipeline does not know, which its class is made with."""
        return dict(self.model_extra or {})


AnyPolicy = union_of(Policy, "kind")


def _name(kind: type[Policy]) -> str:
    return get_args(kind.model_fields["kind"].annotation)[0]


CHECKS: dict[str, Callable[[int, Cost], Check]] = {
    _name(kind): kind.check for kind in derived(Untrained, "kind") if kind is not FilePolicy
}


EXITS = {_name(kind) for kind in (Fixed, *derived(Leaving, "kind")) if kind is not FilePolicy}


def is_untrained(kind: str) -> bool:
    """Whether policies of a kind decide by a confidence that needs no training."""
    return kind in CHECKS or ".py" in kind


def is_exit(kind: str) -> bool:
    """Whether policies of a kind let tokens leave by a rule of their own: not at random, and not knowing the answer."""
    return ".py" in kind or kind in EXITS


def parse(values: Mapping[str, Any]) -> Policy:
    """The policy that `model_dump` gave `values` of."""
    return TypeAdapter(AnyPolicy).validate_python(dict(values))
