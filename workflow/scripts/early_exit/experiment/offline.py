"""What comes from a hub: the folder that keeps it, and what of it is not here where the hub is switched off.

The hub is off if HF_HUB_OFFLINE is set, as the hub's own library reads it. A run that needs what is not here then says
so before its first job, all of it at once, with the command that fetches it. Only jobs that will run are asked: what
they would read from the hub, and the models that they open.
"""

import json
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from early_exit.base.errors import InputError
from early_exit.base.records import read_json
from early_exit.experiment import code_digest
from early_exit.experiment.config.experiment import Experiment
from early_exit.experiment.config.sources import Backbone, Dataset, Source
from early_exit.sources import manifests, model_files

OPENS_MODELS = "early_exit.models.loading"  # a module among those of a job's script: it loads a backbone


def use(folder: str | None, root: Path) -> None:
    """Keep what comes from a hub in one folder, here and in all jobs; None leaves that to the environment.

    A relative folder counts from `root`. HF_HOME stays as it is: the user's access token lies there.
    """
    if folder:
        home = os.path.abspath(root / Path(folder).expanduser())
        os.environ |= {"HF_HUB_CACHE": f"{home}/hub", "HF_DATASETS_CACHE": f"{home}/datasets",
                       "HF_XET_CACHE": f"{home}/xet"}  # fmt: skip


def check(experiment: Experiment, results: str, jobs: Iterable[Any], command: str) -> None:
    """InputError if jobs need model files that have gone, or if the hub is off and what they need from it is not here.

    `command` fetches it. That is found out before the first job: one that fails loses its output, and all that was made
    of it would be made again.
    """
    from huggingface_hub import constants

    jobs = list(jobs)
    if lost := list(gone(experiment, results, jobs)):
        raise InputError("\n".join(lost))
    if not constants.is_offline_mode():
        return
    lacking = list(missing(experiment, results, jobs))
    if lacking:
        lines = "\n".join(f"  {line}" for line in lacking)
        named = {line.partition(":")[0] for line in lacking}
        again = [path for name in experiment.backbones if f"backbones.{name}" in named
                 and os.path.exists(path := f"{results}/backbones/{name}.json")]  # fmt: skip
        command += f" --forcerun {shlex.join(again)}" if again else ""  # they say that all was fetched
        raise InputError(
            f"HF_HUB_OFFLINE is set, and this is not here (models: {constants.HF_HUB_CACHE}):\n{lines}\n"
            f"Where the hub can be reached, without HF_HUB_OFFLINE, this fetches it:\n  {command}"
        )


def missing(experiment: Experiment, results: str, jobs: Iterable[Any]) -> Iterator[str]:
    """A line for each source on the hub that one of the jobs needs and that is not here.

    Args:
        experiment: its config.
        results: the folder of the experiment's files.
        jobs: Snakemake's, those that will run.
    """
    models, data = set(), set()
    for job in jobs:
        if job.rule.name in ("fetch_dataset", "fetch_corpus"):
            data.add(job.wildcards_dict.get("dataset", "corpus"))
        elif job.rule.name == "fetch_backbone" or _opens_models(job):
            models.add(job.wildcards_dict["backbone"])
    for name, spec in experiment.backbones.items():
        if name in models and spec.path is None:
            lacking = absent_files(spec, Path(results, "backbones", f"{name}.json"))
            if lacking:
                more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
                yield f"backbones.{name}: {_at(spec)}: {', '.join(lacking[:3])}{more}"
    for name, spec in {**experiment.datasets, "corpus": experiment.corpus}.items():
        if name in data and spec.path is None and not (name != "corpus" and holds_dataset(spec)):
            key = name if name == "corpus" else f"datasets.{name}"
            yield f"{key}: {_at(spec)}, of which {results}/data/{name}.parquet is made"


def gone(experiment: Experiment, results: str, jobs: Iterable[Any]) -> Iterator[str]:
    """A line for each local backbone that lacks files that it had, if one of the jobs needs it."""
    needed = {job.wildcards_dict["backbone"] for job in jobs if job.rule.name == "fetch_backbone" or _opens_models(job)}
    for name in sorted(needed):
        spec, path = experiment.backbones[name], Path(results, "backbones", f"{name}.json")
        if spec.path and (sizes := _sizes_by_manifest(spec, path)):
            lacking = manifests.missing(_place(spec), dict.fromkeys(sizes))
            if lacking:
                files = ", ".join(os.path.join(spec.path, file) for file in lacking)
                yield f"backbones.{name}: {files}: missing; put it back, or delete {path} if the model is whole without"


def absent_files(spec: Backbone, manifest: Path) -> list[str]:
    """Files of a backbone on the hub that its revision's cached snapshot lacks, or has in another size.

    Which there must be, its manifest says, else the hub's listing that lies in the cache, else the model's own files.
    """
    wanted = _sizes_by_manifest(spec, manifest) or _sizes_by_listing(spec)
    if wanted is None:
        wanted = dict.fromkeys(_own_files(spec))
    lacking = manifests.missing(_place(spec), wanted)
    return ["all of it"] if len(lacking) == len(wanted) else lacking


def holds_dataset(spec: Dataset) -> bool:
    """Whether a question set lies in the cache of `datasets` at its revision, read before."""
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    owner, name = spec.source.split("/")
    folder = Path(config.HF_DATASETS_CACHE, f"{owner}___{camelcase_to_snakecase(name)}")
    return any(folder.glob(f"{spec.name or '*'}/*/{spec.revision}/dataset_info.json"))


def fetch_command(snakefile: str, directory: str | None, settings: Any) -> str:
    """The call of Snakemake that fetches what the present one needs.

    Args:
        snakefile: the path of the Snakefile.
        directory: what --directory says.
        settings: Snakemake's own, of the config: its files, its keys on the command line, whether they replace.
    """
    words = ["snakemake", "--cores", "4", "fetch"]
    if directory or not os.path.samefile(Path(snakefile).parent, Path.cwd()):
        words += ["--snakefile", snakefile, *(["--directory", str(directory)] if directory else [])]
    if settings.replace_workflow_config:
        words.append("--replace-workflow-config")
    if settings.configfiles:
        words += ["--configfile", *map(str, settings.configfiles)]
    if settings.config:
        words += ["--config", *(f"{key}={_plain(value)}" for key, value in settings.config.items())]
    return shlex.join(words)


def _opens_models(job: Any) -> bool:
    script = job.rule.script and code_digest.SCRIPTS / Path(job.rule.script).name
    return bool(script) and OPENS_MODELS in code_digest.modules(script)


def _at(spec: Source) -> str:
    return f"{spec.source} at {spec.revision[:12]}"


def _place(spec: Backbone) -> dict[str, Any]:
    """Where a backbone lies, as its manifest says it."""
    return {"source": spec.source, "revision": spec.revision, "gguf": spec.gguf, "path": spec.path}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _sizes_by_manifest(spec: Backbone, path: Path) -> dict[str, int | None] | None:
    if not path.exists():
        return None
    try:
        manifest = read_json(path)
    except InputError:  # the job that reads it says so
        return None
    same = all(manifest[key] == getattr(spec, key) for key in ("source", "revision", "gguf"))
    return manifest["sizes"] if same else None


def _sizes_by_listing(spec: Backbone) -> dict[str, int | None] | None:
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError
    from huggingface_hub.utils import filter_repo_objects

    try:
        tree = get_cached_repo_tree(spec.source, revision=spec.revision)
    except CachedRepoTreeNotFoundError:
        return None
    wanted = filter_repo_objects(tree, **manifests.download_patterns(spec.gguf), key=lambda file: file.path)
    return {file.path: file.size for file in wanted}


def _own_files(spec: Backbone) -> list[str]:
    """What every model has: its config, and its weights as their index lists them."""
    if spec.gguf:
        return [spec.gguf]
    found = manifests.file_path(_place(spec), "config.json")
    return ["config.json", *(model_files.weights(found.parent) if found else [model_files.SINGLE])]
