"""The counters agree with the arithmetic of costs on every supported architecture, and a wrong formula is named."""

import pytest

from conftest import RANDOM_MODELS, ROOT
from early_exit.base.errors import InputError
from early_exit.base.records import read_json
from early_exit.blocks import counted
from early_exit.costs import parts
from shapes import CODESTRAL_7B, FALCON_MAMBA_7B, MAMBA_2_8B, MISTRAL_7B

TINY = {name: read_json(ROOT / f"workflow/resources/tiny/{name}/config.json") for name in ("transformer", "mamba")}
REAL = {"mistral-7b": MISTRAL_7B, "codestral": CODESTRAL_7B, "mamba-2.8b": MAMBA_2_8B, "falcon-mamba": FALCON_MAMBA_7B,
        **TINY}  # fmt: skip


@pytest.mark.parametrize("name", [*REAL, *RANDOM_MODELS])
def test_both_counters_see_what_the_arithmetic_says(name):
    config = REAL[name] if name in REAL else RANDOM_MODELS[name]().config.to_dict()
    block = parts.backbone(config)[1]
    assert counted.check(config, block) == {"torch": block["linear"], "fvcore": block["linear"]}


@pytest.mark.parametrize(("part", "said"), [("linear", "products"), ("per_context", "attention")])
def test_a_wrong_formula_is_named_with_both_numbers(part, said):
    block = parts.backbone(MISTRAL_7B)[1]
    wrong = block | {part: block[part] + 2}
    with pytest.raises(
        InputError, match=rf"^mistral: MistralDecoderLayer: costs.parts says \d+ FLOPs.* for its {said}"
    ):
        counted.check(MISTRAL_7B, wrong)


def test_a_formula_that_forgets_the_convolution_is_named():
    block = parts.backbone(CODESTRAL_7B | {"conv_kernel": 0})[1]
    with pytest.raises(InputError, match=r"Mamba2Block.*torch's counter"):
        counted.check(CODESTRAL_7B, block)
