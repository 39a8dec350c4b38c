"""How early a backbone's predictions settle, which bounds what exits can save; no head is needed.

All tokens run at full depth. After each block, the hidden state and the token that the LM head would predict from it
are compared with those after the last block; hidden states are taken before the final norm.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from early_exit.models.backbone import Backbone
from early_exit.models.documents import Document, batches, pad


@torch.no_grad()
def settling_rows(backbone: Backbone, documents: Sequence[Document], batch_tokens: int) -> list[dict[str, float]]:
    """Return one row per block n = 1 .. depth, with means over all positions of the documents.

    `share` (0..1): positions whose most probable next token after block n is already the full model's. `cosine`
    (-1..1): between the hidden states after block n and after the last block, in float32. `tokens`: the positions.
    The size of batches, `batch_tokens`, changes values by rounding only.
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
