"""The whole config of one experiment, typed, and what its parts must agree on."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, StringConstraints

from early_exit.base.errors import hint
from early_exit.experiment.config.entry import (
    Commit,
    Count,
    Dtype,
    Entry,
    Key,
    Name,
    Natural,
    Positive,
    Problem,
    Share,
    Unique,
    either,
    is_ascending,
    name_but,
)
from early_exit.experiment.config.heads import Distillation, HeadDesign, HeadQuality
from early_exit.experiment.config.policies import UNSORTED, AnyPolicy, Graded, Policy, Pruned, Random
from early_exit.experiment.config.run import (
    Bootstrap,
    Calibration,
    Degeneration,
    Estimate,
    Generation,
    Precision,
    Pruning,
    Resources,
    Scoring,
    Speed,
    Wallclock,
)
from early_exit.experiment.config.sources import Backbone, Corpus, DatasetName, QuestionSet, Source
from early_exit.sources import user_code

BY_DEFAULT, ALL = "default", "all"
GroupName = name_but(BY_DEFAULT, ALL)


class Experiment(Entry):
    """One experiment. Backbones, datasets, heads and policies are named; the names become folders under results/."""

    preset: str = Field(
        "tiny",
        description="The experiment that the other keys change; a file name in workflow/presets without its ending.",
    )
    name: Name | None = Field(None, description="Folder of the results under results/; null takes the preset's name.")
    seed: Natural = Field(
        1, description="Seed of everything random, from the choice of examples to the heads' first weights."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where models run; auto takes a GPU if there is one."
    )
    dtype: Dtype = Field("float32", description="Number format of the backbones' weights and activations.")
    threads: Count = Field(1, description="CPU threads of each job that runs a model.")
    batch_size: Count = Field(
        16, description="Rows that are generated at once, at most; a row is one prompt at one setting."
    )
    memory: either(Literal["auto"], Positive) = Field(
        "auto",
        description=(
            "MiB that a batch may take beside the weights; auto takes what the job (resources.mem_mb) or the GPU has."
        ),
    )
    cache: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        None,
        description=(
            "Folder (relative to the repository) that keeps all that comes from a hub; null takes the environment's "
            "(HF_HOME) or the hub's own."
        ),
    )
    backbones: Annotated[dict[Name, Backbone], Field(min_length=1)] = Field(
        description="The frozen language models, by name; null removes one of the preset's."
    )
    datasets: Annotated[dict[DatasetName, QuestionSet], Field(min_length=1)] = Field(
        description="The question sets, by name (any but corpus); null removes one of the preset's."
    )
    corpus: Corpus = Field(description="The text that heads are distilled on.")
    heads: dict[Name, HeadDesign] = Field(
        default_factory=dict, description="The exit heads, by name; null removes one of the preset's."
    )
    distillation: Distillation = Field(
        default_factory=Distillation,
        description="How heads are trained. The backbone is frozen and is its own teacher.",
    )
    head_quality: HeadQuality = Field(
        default_factory=HeadQuality, description="How good heads are at their task, measured on the held-out documents."
    )
    recipes: dict[Name, Annotated[list[str], Field(min_length=1), Unique]] = Field(
        default_factory=dict,
        description=(
            "Lists of heads that are trained in one pass, by name. A new head in a recipe of its own retrains no other."
        ),
    )
    thresholds: Annotated[list[Share], Field(min_length=1)] = Field(
        [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99],
        description="The sweep of every head policy without thresholds of its own, ascending.",
    )
    group: str = Field(
        BY_DEFAULT,
        description=(
            "Which policies run: default leaves out those that `groups` names, all takes every one, or a group's name."
        ),
    )
    groups: dict[GroupName, Annotated[list[str], Unique]] = Field(
        default_factory=dict,
        description="Policies that run only where `group` asks for them, by the group's name; all others always run.",
    )
    policies: Annotated[dict[Name, AnyPolicy], Field(min_length=1)] = Field(
        description="Rules for where a token leaves, by name; null removes one of the preset's."
    )
    pruning: Pruning = Field(
        default_factory=Pruning,
        description="How the blocks are scored that static pruning leaves out by anything but `last`.",
    )
    calibration: Calibration = Field(
        default_factory=Calibration,
        description="How a policy's own thresholds are chosen on the calibration questions, and how that is tested.",
    )
    generation: Generation = Field(
        default_factory=Generation, description="How answers are generated, beside greedily."
    )
    wallclock: Wallclock = Field(
        default_factory=Wallclock,
        description=(
            "Seconds per generated token of every setting, measured apart; results are then no longer the same twice."
        ),
    )
    precision: Precision = Field(
        default_factory=Precision,
        description="How much a coarser number format changes, and whether a small change dies out along the sequence.",
    )
    degeneration: Degeneration = Field(default_factory=Degeneration, description="What counts as a repetition loop.")
    scoring: Scoring = Field(default_factory=Scoring, description="How answers are scored.")
    bootstrap: Bootstrap = Field(default_factory=Bootstrap, description="How 95 % intervals are found.")
    resources: Resources = Field(
        default_factory=Resources,
        description=(
            "What a job that runs a model requests of a cluster; tried again, it requests twice and three times "
            "as much."
        ),
    )
    estimate: Estimate = Field(
        default_factory=Estimate,
        description="The machine that time limits and the printed estimate assume; nothing here changes a result.",
    )
    speed: Speed = Field(
        default_factory=Speed, description="What `snakemake speed` measures; not part of the report's run."
    )
    revisions: dict[str, Commit] = Field(
        default_factory=dict,
        description="Immutable commits of hub sources, owner/name to 40 hex digits; goes before what `make pin` wrote.",
    )
    _given: dict[str, Any] = PrivateAttr(default_factory=dict)
    _notes: list[str] = PrivateAttr(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What of the preset does not fit these backbones and was cut, a line each."""
        return list(self._notes)

    @property
    def is_on_gpu(self) -> bool:
        """Whether jobs that run a model request a GPU."""
        return self.device != "cpu" and self.resources.gpu > 0

    def sources(self) -> Iterator[tuple[Key, Source]]:
        """Every model and data source, and its key."""
        for section in ("backbones", "datasets"):
            for name, source in getattr(self, section).items():
                yield (section, name), source
        yield ("corpus",), self.corpus

    def removed(self, section: str) -> set[str]:
        """Names that the user's config takes out of a section of the preset."""
        return {name for name, value in (self._given.get(section) or {}).items() if value in (None, "null")}

    def given(self, section: str) -> set[str]:
        """Names that the user's config writes in a section."""
        return set(self._given.get(section) or {})

    def complete(self) -> None:
        """Fill in what follows from other keys."""
        self.name = self.name or self.preset
        for backbone in self.backbones.values():
            backbone.dtype = backbone.dtype or self.dtype
            backbone.batch_size = backbone.batch_size or self.batch_size
        if self.distillation.seed is None:
            self.distillation.seed = self.seed
        for policy in self.policies.values():
            if isinstance(policy, Graded) and getattr(policy.rule, "thresholds", ()) is None:
                policy.rule.thresholds = list(self.thresholds)
        for policy in self.policies.values():
            matched = self.policies.get(policy.matched or "")
            if isinstance(policy, Random) and matched is not None and matched.leaves:
                policy.state_fill, policy.datasets = matched.fill, matched.only_on
            if self.group == ALL and policy.only_on:
                policy.datasets = None
        self._fit_the_preset()

    def _fit_the_preset(self) -> None:
        """Cut the preset's grids to what every backbone has. (What the user wrote is refused where it does not fit.)"""
        depth = min((backbone.depth for backbone in self.backbones.values()), default=None)
        for name in self.selected().keys() - self.given("policies"):
            policy = self.policies[name]
            if isinstance(policy, Pruned) and policy.drop[-1] >= depth:
                policy.drop, before = [count for count in policy.drop if count < depth] or [1], policy.drop
                self._notes.append(f"policies.{name}.drop: {policy.drop}, not {before}: a backbone has {depth} blocks")
        windows = [backbone.window for backbone in self.backbones.values() if backbone.window]
        if windows and "max_tokens" not in self.given("corpus") and self.corpus.max_tokens > min(windows):
            before, self.corpus.max_tokens = self.corpus.max_tokens, min(windows)
            self._notes.append(f"corpus.max_tokens: {min(windows)}, not {before}: a backbone's window has no more")

    def problems(self) -> Iterator[Problem]:
        """Key, value and what is wrong with it: names that are not there, orders, and what does not fit together."""
        if not is_ascending(self.thresholds):
            yield ("thresholds",), self.thresholds, UNSORTED
        yield from self._problems_of_heads()
        if [name for name, policy in self.policies.items() if policy.kind == "full"] != ["full"]:
            full = self.policies.get("full")
            yield ("policies", "full"), full and full.model_dump(), "must be the one policy of kind full"
        looked_at = self.selected().keys() | self.given("policies")  # of the preset's, those that run
        for name, policy in self.policies.items():
            for key, value, why in self._problems_of_policy(policy) if name in looked_at else ():
                yield ("policies", name, *key), value, why
            if name in self.given("policies") and not any(policy.runs_on(b.family) for b in self.backbones.values()):
                yield ("policies", name, "state_fill"), policy.fill, "belongs to no backbone here"
        yield from self._problems_of_groups()
        yield from self._problems_of_windows()
        yield from self._problems_of_precision()

    def selected(self) -> dict[str, Policy]:
        """The policies that run: those in no group, those of the group asked for, and what these match.

        What matches a policy that was removed goes with it.
        """
        policies = {name: one for name, one in self.policies.items() if (one.matched or name) in self.policies}
        wanted = set(policies) if self.group == ALL else set(self.groups.get(self.group, ()))
        wanted |= policies.keys() - {name for names in self.groups.values() for name in names}
        wanted |= {policies[name].matched for name in wanted & policies.keys()} - {None}
        return {name: policy for name, policy in policies.items() if name in wanted}

    def _problems_of_heads(self) -> Iterator[Problem]:
        for name, head in self.heads.items():
            if user_code.is_external(head.kind) and (why := user_code.problem(head.kind)):
                yield ("heads", name, "kind"), head.kind, why
        for recipe, heads in self.recipes.items():
            yield from _unknown(("recipes", recipe), heads, self.heads)
        yield from _unknown(("head_quality", "recipes"), self.head_quality.recipes, self.recipes)
        weights = self.distillation.exit_weights
        for name, backbone in self.backbones.items():
            if not isinstance(weights, str) and len(weights) != len(backbone.exits):
                why = f"has {len(weights)} weights, but backbone '{name}' has {len(backbone.exits)} exits"
                yield ("distillation", "exit_weights"), weights, why

    def _problems_of_windows(self) -> Iterator[Problem]:
        """Where a backbone's window is known. Of the others the first job that opens the model says it."""
        for name, window in ((name, backbone.window) for name, backbone in self.backbones.items()):
            if window is None:
                continue
            for dataset, entry in self.datasets.items():
                if entry.max_new_tokens >= window:
                    why = f"leaves a prompt no room in the window of '{name}', {window} tokens"
                    yield ("datasets", dataset, "max_new_tokens"), entry.max_new_tokens, why
            if self.corpus.max_tokens > window:
                why = f"is more than the window of '{name}' has, {window} tokens"
                yield ("corpus", "max_tokens"), self.corpus.max_tokens, why

    def _problems_of_precision(self) -> Iterator[Problem]:
        yield from _unknown(
            ("precision", "datasets"), self.precision.datasets, [*self.datasets, *self.removed("datasets")]
        )
        known = [*self.policies, *self.removed("policies")]
        yield from _unknown(("precision", "policies"), self.precision.policies, known)
        for i, name in enumerate(self.precision.policies):
            policy = self.policies.get(name)
            if policy is not None and (policy.kind != "head" or policy.is_planned or policy.rule.adapt != "none"):
                yield ("precision", "policies", i), name, "must be a head with thresholds that do not adapt"

    def _problems_of_policy(self, policy: Policy) -> Iterator[Problem]:
        yield from policy.problems(self)
        yield from _unknown(("datasets",), policy.only_on, [*self.datasets, *self.removed("datasets")])
        if user_code.is_external(policy.kind) and (why := user_code.problem(policy.kind)):
            yield ("kind",), policy.kind, why

    def _problems_of_groups(self) -> Iterator[Problem]:
        for group, names in self.groups.items():
            yield from _unknown(("groups", group), names, [*self.policies, *self.removed("policies")])
            for i, name in enumerate(names):
                if name in self.policies and self.policies[name].kind == "full":
                    yield ("groups", group, i), name, "always runs; take it out of the group"
        known = [BY_DEFAULT, *self.groups, ALL]
        if self.group not in known:
            yield ("group",), self.group, f"is unknown; {hint(self.group, known)}"


def _unknown(key: Key, names: list[str] | None, known: Mapping[str, Any] | list[str]) -> Iterator[Problem]:
    """Names of a list that are not known."""
    for i, name in enumerate(names or []):
        if name not in known:
            yield (*key, i), name, f"is unknown; {hint(name, list(known))}"
