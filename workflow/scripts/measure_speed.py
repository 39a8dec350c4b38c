"""Rule measure_speed: one backbone's decoding, timed beside the library's, on each dataset of the config's `speed`."""

import pandas as pd

from early_exit.base import job, records
from early_exit.decoding import stopping
from early_exit.heads import store
from early_exit.models import loading
from early_exit.speed import cases, interleaved

with job.logged(snakemake) as log:
    params = snakemake.params
    manifest = records.read_json(snakemake.input.manifest)
    costs = records.read_json(snakemake.input.costs)
    backbone, tokenizer = loading.open_backbone(manifest, params.runtime)
    ends = loading.stop_token_ids(backbone, tokenizer)
    probe, tables = interleaved.Probe(backbone.device), []
    for entry in params.plan:
        examples = records.read_table(entry["data"], records.EXAMPLES)
        examples = examples[examples["split"] == "test"]
        prompts = tokenizer(list(examples["prompt"]))["input_ids"]
        timed = []
        for spec in entry["heads"]:
            threshold, names = spec["threshold"], ("head", "state_fill", "head_state")
            if threshold is None:
                run = manifest["name"], entry["dataset"], spec["policy"]
                threshold = records.read_thresholds([spec["calibrated"]])[run][spec["promise"]]
            if threshold is None:
                log.warning("%s: no threshold keeps %s, so it runs as the full model", spec["policy"], spec["promise"])
                continue
            trained = store.load(spec["folder"], spec["head"], manifest).to(backbone.device, backbone.model.dtype)
            timed.append(cases.TimedHead(*(spec[name] for name in names), threshold, trained))
        rule = stopping.StopRule(tokenizer, ends, examples["stop_strings"].iloc[0], entry["max_new_tokens"])
        exits = cases.Exits(params.exits, timed, entry["drafts"])
        bench = cases.Bench(backbone, prompts, rule, exits, costs=costs, settings=params.settings)
        same = {"backbone": manifest["name"], "dataset": entry["dataset"], "threads": params.runtime["threads"],
                "dtype": params.runtime["dtype"], "device": str(backbone.device)}  # fmt: skip
        for name, group in bench.groups().items():
            log.info("%s, %s: %d cases", entry["dataset"], name, len(group))
            tables.append(interleaved.measure(group, params.settings["repeats"], probe, **same))
    records.write_csv(pd.concat(tables), snakemake.output[0], "%.6g")
