"""How early a backbone settles, before any exit head is trained: what an exit after each block could be worth.

All tokens run at full depth. After each block the hidden state is compared with that after the last one, both as they
are before the final norm, and so is the token that the LM head would predict from it.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from early_exit.models.backbone import Backbone
from early_exit.models.documents import Document, batches, pad


@torch.no_grad()
def settling(backbone: Backbone, documents: Sequence[Document], batch_tokens: int) -> list[dict[str, float]]:
    """A row for each block n = 1 .. depth, means over all positions of the documents.

    `share` (0..1) of positions whose most probable next token after block n is already the full model's; `cosine`
    (-1..1) of the hidden state after block n with that after the last block, in float32; `tokens`, the positions.
    Documents are run in batches of about `batch_tokens`, which changes no value beyond rounding.
    """
    every = range(1, backbone.depth + 1)
    equal, cosine, count = dict.fromkeys(every, 0), dict.fromkeys(every, 0.0), 0
    for batch in batches(documents, batch_tokens, seed=0):
        ids, real = pad(batch, backbone.device)
        last, hidden = backbone.run_prompt(ids, every)
        final = backbone.logits(last).argmax(-1)
        count += int(real.sum())
        for n in every:
            equal[n] += int(((backbone.logits(hidden[n]).argmax(-1) == final) & real).sum())
            likeness = F.cosine_similarity(hidden[n].float(), last.float(), dim=-1).clamp(-1, 1)  # it may round above
            cosine[n] += float(likeness[real].double().sum())
    return [{"block": n, "share": equal[n] / count, "cosine": cosine[n] / count, "tokens": count} for n in every]
