"""Pin the newest commit on the hub of every source without a revision, for all presets.

Usage: python workflow/scripts/pin_revisions.py [CONFIG.yaml ...]. Revisions that are pinned already do not change.
"""

import sys
from pathlib import Path

import yaml
from httpx2 import HTTPError
from huggingface_hub import HfApi

from early_exit.base import redaction
from early_exit.base.errors import InputError
from early_exit.experiment import config

ROOT = Path(__file__).resolve().parents[2]


def main(files: list[str]) -> None:
    path = ROOT / config.REVISIONS
    known = config.read_yaml(path) if path.exists() else {}
    presets = [{"preset": file.stem} for file in (ROOT / config.PRESETS).glob("*.yaml") if file != path]
    for user in [*presets, *(config.read_yaml(Path(file)) for file in files)]:
        for key, spec in config.sources(config.merge_preset(user, ROOT)):
            source = spec["source"]
            if spec["revision"] or source in known or config.local_path(source, ROOT):
                continue
            ask = HfApi().model_info if key[0] == "backbones" else HfApi().dataset_info
            known[source] = ask(source).sha
            print(f"{source}: {known[source]}")
    path.write_text(yaml.safe_dump(known), encoding="utf-8")
    print(f"{len(known)} revisions in {path}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (InputError, HTTPError, OSError) as error:
        sys.exit(redaction.redact(f"Error: the hub gave no revisions: {error}"))
