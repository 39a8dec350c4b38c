"""Confidences of exit heads on held-out text, beside what would have been right; `head_quality` evaluates them.

The frozen backbone runs once over each document; the heads of all trainings read the same hidden states, all positions
of a document at once. So a stateful head sees every earlier token at every exit. In decoding, its later exits miss the
tokens that left earlier (see `policies.confidences`): the quality here is what training aims at.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from early_exit.base import job
from early_exit.base.errors import InputError
from early_exit.base.records import read_json
from early_exit.heads import store, targets
from early_exit.models.backbone import Backbone
from early_exit.models.documents import Document, batches, pad

HeadsBySeed = Mapping[int, Mapping[str, nn.ModuleDict]]  # by the seed of the training and by name; one head per exit


def load(folders: Sequence[Path], names: Sequence[str], backbone: Mapping[str, str]) -> dict[int, dict]:
    """Load the heads `names` of several trainings of one recipe, keyed by the seed of the training.

    InputError if two have the same seed, or if one was trained for another backbone than that of the manifest.
    """
    trained: dict[int, dict] = {}
    for folder in folders:
        seed = read_json(folder / "manifest.json")["seed"]
        if seed in trained:
            raise InputError(f"{folder}: a second training from seed {seed}; every training needs another seed")
        trained[seed] = {name: store.load(folder, name, backbone) for name in names}
    return trained


@torch.no_grad()
def measure(
    backbone: Backbone, trained: HeadsBySeed, documents: Sequence[Document], label: str, k: int, batch_tokens: int
) -> pd.DataFrame:
    """Return one row per seed, token and exit, in the order of seeds, documents, positions and exits.

    Columns: `seed, document_id, position, exit`; `label`, the target of a head by the rule `label` with `k`;
    `agreement`, whether the exit's most probable token is the full model's; and `confidence_{name}` per head.
    Memory holds the hidden states of `batch_tokens` tokens at every exit, and the logits at two depths.
    """
    exits = [int(n) for n in next(iter(next(iter(trained.values())).values()))]
    dtype = backbone.model.dtype  # as in decoding
    for per_name in trained.values():
        for heads in per_name.values():
            heads.to(backbone.device, dtype)
    place = {document.document_id: k for k, document in enumerate(documents)}
    groups = list(batches(documents, batch_tokens, seed=0))
    frames = []
    for group in job.progress(groups, len(groups), "batches of held-out text"):
        ids, real = pad(group, backbone.device)
        last, hidden = backbone.run_prompt(ids, exits)
        oracle = backbone.logits(last)
        row, position = (index.cpu() for index in real.nonzero(as_tuple=True))
        tokens = {"place": [place[group[r].document_id] for r in row.tolist()], "position": position.numpy()}
        for n in exits:
            logits = backbone.logits(hidden[n])
            truth = {
                "label": targets.labels(logits, oracle, label, k)[real].cpu().numpy(),
                "agreement": (logits.argmax(-1) == oracle.argmax(-1))[real].cpu().numpy(),
            }
            del logits
            for seed, per_name in trained.items():
                confidences = {
                    f"confidence_{name}": store.confidence(heads[str(n)](hidden[n])[real]).cpu().numpy()
                    for name, heads in per_name.items()
                }
                frames.append(pd.DataFrame({"seed": seed, **tokens, "exit": n, **truth, **confidences}))
    rows = pd.concat(frames).sort_values(["seed", "place", "position", "exit"], ignore_index=True)
    rows.insert(1, "document_id", [documents[k].document_id for k in rows.pop("place")])
    return rows
