"""Requests and answers: what the decoding loop is given, and what it yields."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from early_exit.decoding.stopping import StopRule


@dataclass(frozen=True)
class Request:
    """A tokenised prompt, to be answered once for each setting.

    `prompt_sha256` is the hash of the prompt's text, `prompt_cut` the number of tokens cut off to fit the window.
    """

    example_id: str
    token_ids: Sequence[int]
    settings: Sequence[float]
    prompt_sha256: str = ""
    prompt_cut: int = 0


@dataclass
class Generation:
    """An answer as it grows. `exit_blocks[i]` is the number of blocks run for the pass that gave token i.

    `drafted` and `accepted` have an entry for each round of self-speculation: tokens drafted, and those accepted.
    """

    request: Request
    setting: float
    token_ids: list[int] = field(default_factory=list)
    exit_blocks: list[int] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    stop_reason: str | None = None

    @property
    def example_id(self) -> str:
        return self.request.example_id

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.token_ids)

    @property
    def so_far(self) -> tuple[str, list[int]]:
        """The example, and all tokens of it that the model has read or given."""
        return self.example_id, [*self.request.token_ids, *self.token_ids]

    def add(self, token_id: int, exit_block: int, rule: StopRule) -> None:
        """Append a token, and note why the answer ends, if it does."""
        self.token_ids.append(token_id)
        self.exit_blocks.append(exit_block)
        self.stop_reason = rule.reason(self.token_ids)
