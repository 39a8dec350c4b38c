"""Pin the newest commit on the hub of every source without a revision, for all presets.

Usage: python workflow/scripts/pin_revisions.py [CONFIG.yaml ...]. Revisions that a preset names or that are pinned
already do not change.
"""

import sys
from pathlib import Path

import yaml
from httpx2 import HTTPError
from huggingface_hub import HfApi

from early_exit.base import redaction
from early_exit.base.errors import InputError
from early_exit.base.files import ROOT
from early_exit.experiment.config import load
from early_exit.experiment.config.sources import local_path


def main(files: list[str]) -> None:
    path = ROOT / load.REVISIONS
    known = load.read_yaml(path) if path.exists() else {}
    presets = [{"preset": file.stem} for file in (ROOT / load.PRESETS).glob("*.yaml") if file != path]
    for user in [*presets, *(load.read_yaml(Path(file)) for file in files)]:
        config = load.merge_preset(user, ROOT)
        for key, spec in config.sources():
            if spec.revision or spec.source in {**known, **config.revisions} or local_path(spec.source, ROOT):
                continue
            ask = HfApi().model_info if key[0] == "backbones" else HfApi().dataset_info
            known[spec.source] = ask(spec.source).sha
            print(f"{spec.source}: {known[spec.source]}")
    path.write_text(yaml.safe_dump(known), encoding="utf-8")
    print(f"{len(known)} revisions in {path}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (InputError, HTTPError, OSError) as error:
        sys.exit(redaction.redact(f"Error: the hub gave no revisions: {error}"))
