"""docs/concepts.md names every kind of head, state fill and policy, and what the settings of each policy are."""

import re
from typing import get_args

from conftest import ROOT
from early_exit.decoding.fills import FILLS
from early_exit.experiment.config import policies
from early_exit.experiment.config.entry import derived
from early_exit.heads.designs import KINDS

PAGE = (ROOT / "docs/concepts.md").read_text()


def table(heading: str) -> dict[str, list[str]]:
    """{name in the first cell: the other cells} of the table in a section."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [row.strip("|").split("|") for row in re.findall(r"^\|.*\|$", section, re.MULTILINE)[2:]]
    return {name: [cell.strip() for cell in cells] for first, *cells in rows for name in re.findall(r"`(.+?)`", first)}


def test_heads_and_fills_are_all_there():
    assert table("Exit heads").keys() == KINDS.keys()
    families = {"transformer": "Transformer", "mamba": "Mamba"}
    for name, (family, _) in table("State fills").items():
        assert {key for key in families if name in FILLS[key]} == {
            key for key, shown in families.items() if family in ("both", shown)
        }
    assert table("State fills").keys() == {name for fills in FILLS.values() for name in fills}


def test_policies_are_all_there_with_the_kind_of_their_settings():
    shown = {name: kind for name, (_, kind) in table("Policies and settings").items()}
    assert shown.pop("file.py:Class") == "threshold" and shown.pop("random") == "that policy's"
    kinds = {}
    for entry in derived(policies.Policy, "kind"):
        for name in get_args(entry.model_fields["kind"].annotation):
            kinds[name] = entry.setting_kind if isinstance(entry.setting_kind, str) else "threshold"
    kinds.pop("random")
    assert shown == kinds
