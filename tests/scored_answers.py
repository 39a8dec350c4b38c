"""Questions and answers to score."""

import pandas as pd

from early_exit.base import records


def examples(*ids, references=("blue river",), incorrect=()):
    """A table of questions with the same references."""
    return pd.DataFrame(
        {
            "example_id": i,
            "group_id": f"story of {i}",
            "conversation_id": i,
            "turn": 1,
            "split": "test",
            "story": "",
            "question": "?",
            "prompt": "Q:",
            "prompt_sha256": "0",
            "prompt_parts": [],
            "stop_strings": ["\n"],
            "references": list(references),
            "incorrect": list(incorrect),
        }
        for i in ids
    )


def answer(example_id, text, tokens, setting=1.0, degenerate=False, policy="full"):
    """A row of a table of answers; columns that scoring does not read are None."""
    return dict.fromkeys(records.GENERATIONS.names) | {
        "policy": policy,
        "example_id": example_id,
        "setting": setting,
        "prompt_tokens": 3,
        "token_ids": tokens,
        "text": text,
        "exit_blocks": [4] * len(tokens),
        "drafted": [],
        "accepted": [],
        "stop_reason": "eos",
        "degenerate": degenerate,
        "seed": 0,
    }
