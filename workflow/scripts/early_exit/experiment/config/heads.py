"""Exit heads and how they are trained: one class per design."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints

from early_exit.experiment.config.entry import Count, Entry, Natural, Number, Positive, Unique, either, union_of


class Head(Entry):
    """One classifier design; each exit gets its own copy.

    `is_slim`: its weights are few beside a block's, which the estimate of memory and time goes by.
    `has_state`: it keeps something between tokens.
    """

    is_slim: ClassVar[bool] = False
    has_state: ClassVar[bool] = False

    kind: str
    normalise: Literal["rms", "none"] = Field(
        "rms", description="Scaling of the hidden state before the head; rms is to unit root mean square."
    )


class Calm(Head):
    """A linear layer to two logits (paper, sec. III; CALM)."""

    is_slim: ClassVar[bool] = True
    kind: Literal["calm"] = Field(description="A linear layer to two logits.")


class Ffn(Head):
    """d -> 4d -> 2, as in a Transformer block (paper, sec. III)."""

    kind: Literal["ffn"] = Field(description="d to 4d to 2, as in a Transformer block.")


class Mamba2Mixer(Entry):
    """Shape of a Mamba-2 mixer."""

    mixer: Literal["mamba2"] = Field("mamba2", description="Transformers' Mamba-2 mixer.")
    expand: Count = Field(2, description="Inner width of the mixer over the width that it reads.")
    head_dim: Count = Field(64, description="Channels of each of its state space heads.")
    state_size: Count = Field(128, description="State of each channel; 16 for mixer mamba1.")
    n_groups: Count = Field(
        8, description="Groups that share B and C; must divide expand x width / head_dim. 1 for mamba-slim and hybrid."
    )
    conv_kernel: Count = Field(4, description="Tokens that its convolution sees.")
    chunk_size: Count = Field(64, description="Tokens that its scan takes at once; changes speed, not results.")


class SlimMamba2Mixer(Mamba2Mixer):
    """The same with one group, for mixers of few channels."""

    n_groups: Count = Field(1, description="Groups that share B and C; must divide expand x rank / head_dim.")


class Mamba1Mixer(Entry):
    """Shape of a Mamba-1 mixer."""

    mixer: Literal["mamba1"] = Field(description="Transformers' first Mamba mixer.")
    expand: Count = Field(2, description="Inner width of the mixer over the width that it reads.")
    state_size: Count = Field(16, description="State of each channel.")
    conv_kernel: Count = Field(4, description="Tokens that its convolution sees.")


Mixer = union_of((Mamba2Mixer, Mamba1Mixer), "mixer")
SlimMixer = union_of((SlimMamba2Mixer, Mamba1Mixer), "mixer")
Rank = Annotated[Count, Field(description="Channels that the hidden state is projected to first, by a learned matrix.")]


class Mamba(Head):
    """A Mamba mixer whose output projection gives two logits (paper, sec. III)."""

    has_state: ClassVar[bool] = True
    nested: ClassVar[str] = "shape"
    kind: Literal["mamba"] = Field(description="A Mamba mixer that ends in two logits.")
    shape: Mixer


class FfnSlim(Head):
    """An FFN head behind a projection to `rank` channels."""

    is_slim: ClassVar[bool] = True
    kind: Literal["ffn-slim"] = Field(description="ffn behind a projection to `rank` channels.")
    rank: Rank = 128


class MambaSlim(Head):
    """A Mamba head behind a projection to `rank` channels."""

    is_slim: ClassVar[bool] = True
    has_state: ClassVar[bool] = True
    nested: ClassVar[str] = "shape"
    kind: Literal["mamba-slim"] = Field(description="mamba behind a projection to `rank` channels.")
    rank: Rank = 128
    shape: SlimMixer


class Hybrid(Head):
    """An FFN on a Mamba state of `rank` channels."""

    is_slim: ClassVar[bool] = True
    has_state: ClassVar[bool] = True
    nested: ClassVar[str] = "shape"
    kind: Literal["hybrid"] = Field(description="An FFN on a Mamba state of `rank` channels.")
    rank: Rank = 128
    shape: SlimMixer


class FileHead(Head):
    """A class of the user's, in a Python file: it knows its own keys."""

    model_config = ConfigDict(extra="allow")
    kind: Annotated[str, StringConstraints(pattern=r"\.py")] = Field(
        description="path/to/file.py:Class, a class of yours, relative to the repository or the working directory."
    )


HeadDesign = union_of(Head, "kind")


class Distillation(Entry):
    """How heads are trained. The backbone is frozen and is its own teacher."""

    label: Literal["exit-in-oracle-topk", "oracle-in-exit-topk"] = Field(
        "exit-in-oracle-topk",
        description=(
            "When a token may leave. Paper: the exit's best token is among the full model's k best; or reversed."
        ),
    )
    k: Count = Field(15, description="The k of the label.")
    exit_weights: either(Literal["linear", "uniform"], Annotated[list[Positive], Field(min_length=1)]) = Field(
        "linear",
        description="Weights of the exits in the loss: linear (1, 2, 3, 4 over their sum), uniform, or one for each.",
    )
    class_balance: Literal["none", "balanced"] = Field(
        "none",
        description=(
            "Weights of the two labels in an exit's loss. balanced is by inverse frequency, counted over the tokens "
            "that this training has seen there; confidences then are as if both labels were equally frequent."
        ),
    )
    optimiser: Literal["schedulefree-adamw", "adamw"] = Field("schedulefree-adamw", description="The optimiser.")
    learning_rate: Positive = Field(2.5e-4, description="Its learning rate.")
    epochs: Count = Field(1, description="Passes over the corpus.")
    max_training_tokens: Count | None = Field(
        None,
        description="Tokens after which training ends, with the step that reaches them; null means after all passes.",
    )
    batch_tokens: Count = Field(4096, description="Most tokens, padding included, in one step.")
    seed: Natural | None = Field(
        None,
        description="Seed of the heads' first weights and of the order of documents; null takes the top-level key.",
    )
    checkpoint_seconds: Annotated[Number, Field(ge=0)] = Field(
        120.0,
        description="How often a training saves its state, to go on from when it was killed; changes no result.",
    )

    def settings(self) -> dict[str, Any]:
        """What changes a training's result."""
        return self.model_dump(exclude={"checkpoint_seconds"})


class HeadQuality(Entry):
    """How good heads are at their task, measured on the held-out documents."""

    seeds: Count = Field(
        3,
        description=(
            "Trainings of every recipe that it is measured over, from consecutive seeds; the first is the run's."
        ),
    )
    recipes: Annotated[list[str], Unique] | None = Field(
        None,
        description="The recipes that it is measured of, on every backbone; null takes those that some policy needs.",
    )
