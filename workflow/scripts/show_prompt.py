"""Print the exact prompt of an example, without a line end after it; its stop strings and hash go to standard error.

Usage: python workflow/scripts/show_prompt.py results/NAME/data/DATASET.parquet [EXAMPLE] [ANSWERS POLICY SETTING]

EXAMPLE is the first test example by default. With a file of answers and a policy at one of its settings, prints the
prompt that these answers were given to, which holds the model's answers under `history: own`; else the prompt with the
gold answers.
"""

import sys

from early_exit.base.errors import InputError
from early_exit.base.records import EXAMPLES, GENERATIONS, read_table
from early_exit.data.conversations import Prompt, Rounds


def main(data: str, example_id: str | None = None, *answered: str) -> None:
    examples = read_table(data, EXAMPLES).set_index("example_id", drop=False)
    example_id = example_id or examples.index[examples["split"] == "test"][0]
    if example_id not in examples.index:
        raise InputError(f"{data}: has no example {example_id}")
    prompt = Prompt(example_id, examples.at[example_id, "prompt"], ())
    if answered:
        path, policy, setting = answered
        answers, rounds = read_table(path, GENERATIONS), Rounds(examples, [policy])
        answers = answers[(answers["policy"] == policy) & (answers["setting"] == float(setting))]
        if example_id not in set(answers["example_id"]):
            raise InputError(f"{path}: has no answer to example {example_id} by policy {policy} at setting {setting}")
        for answer in answers.itertuples():
            rounds.note(answer.example_id, policy, answer.text)
        prompt = rounds.prompt(example_id, policy)
    stops = examples.at[example_id, "stop_strings"]
    print(f"example {example_id}, sha256 {prompt.sha256}, stop strings {stops}", file=sys.stderr)
    print(prompt.text, end="")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3, 6):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (InputError, ValueError) as error:
        sys.exit(f"Error: {error}")
