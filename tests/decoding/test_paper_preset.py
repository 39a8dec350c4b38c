"""The paper's preset by arithmetic: its batches fit a GPU of 80 GB, and its answers take at most nine hours of one."""

import pytest
import torch
import transformers

from configs import load
from early_exit.decoding import memory
from early_exit.experiment import runs, work
from early_exit.models import loading
from shapes import CODESTRAL_7B, MISTRAL_7B

GPU_BYTES = 80e9
CONTEXT = 2e9  # CUDA's own, and what PyTorch holds back


@pytest.mark.parametrize(("name", "config"), [("mistral-7b", MISTRAL_7B), ("codestral-mamba-7b", CODESTRAL_7B)])
def test_a_batch_fits_beside_weights_and_stored_prompts(name, config):
    with torch.device("meta"):
        config = transformers.AutoConfig.for_model(**config)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    backbone, spec = loading.adapt(model), load(preset="paper").backbones[name]
    budget = int(0.9 * (GPU_BYTES - CONTEXT - spec.weight_bytes))
    longest = memory.Shape(prompt=600, new_tokens=64, exits_read=len(spec.exits), asks_lm_head=True)
    limits = memory.Limits(spec.batch_size + 1, budget)
    fitting = memory.rows_that_fit(limits, backbone, longest, stored=budget // 4)
    assert fitting >= spec.batch_size
    assert memory.stored_prompt(backbone, 600, len(spec.exits)) < budget / 4


def test_its_answers_take_at_most_nine_hours_of_the_assumed_gpu():
    config = load(preset="paper")
    parts = [(pair, part) for pair in runs.pairs(config) for part in runs.ANSWERED_BY]
    jobs = [
        work.answer(config, pair, part)
        for pair, part in parts
        if runs.policies(config, pair, part)
        for _ in work.shards(config, pair, part)
    ]
    hours = sum(job.seconds for job in jobs) / 3600
    assert 5 < hours <= 9  # one prompt a policy, and 64 rows, took 16


def test_automatic_shards_keep_each_job_below_its_hours():
    config = load(preset="paper", generation={"shards": "auto", "shard_hours": 0.5})
    counts = set()
    for pair in runs.pairs(config):
        places = work.shards(config, pair, "exits")
        counts.add(len(places))
        assert work.answer(config, pair, "exits").seconds <= 0.5 * 3600 + 60  # a job starts in half a minute
        assert places == [""] or places[-1] == f"-{len(places) - 1}-of-{len(places)}"
    assert 1 in counts and max(counts) > 1
