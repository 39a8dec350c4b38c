"""Where a model's numbers stop being finite: an overflow of float16, or a weight that is not a number."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from early_exit.base.errors import InputError
from early_exit.models.backbone import Backbone, NotFinite


@contextmanager
def naming_example(backbone: Backbone, sequences: Iterable[tuple[str, Sequence[int]]]) -> Iterator[None]:
    """Turn `NotFinite` into an InputError that names the example and the block; `sequences` are ids and their tokens.

    To find them, the sequences run once more at full depth.
    """
    try:
        yield
    except NotFinite as error:
        raise InputError(f"{_first(backbone, sequences)}: {error}") from error


@torch.inference_mode()
def _first(backbone: Backbone, sequences: Iterable[tuple[str, Sequence[int]]]) -> str:
    """The first example of `sequences` whose hidden states are not finite, and the first such block."""
    names = []
    for name, token_ids in sequences:
        names.append(name)
        tokens = torch.tensor([list(token_ids)], device=backbone.device)
        _, after = backbone.run_prompt(tokens, range(1, backbone.depth + 1))
        broken = (n for n in range(1, backbone.depth + 1) if not bool(torch.isfinite(after[n]).all()))
        if block := next(broken, None):
            return f"example {name}, block {block} of {backbone.depth}"
    return f"one of the examples {', '.join(names)}, behind the last block"
