"""Rule provenance: the page that says where the results come from."""

from pathlib import Path

from early_exit.base import files, job, records
from early_exit.report import provenance

with job.logged(snakemake):
    roots = [Path.cwd(), files.ROOT]
    origin = provenance.Origin(
        config=provenance.relative(snakemake.params.config, roots),
        manifests=provenance.relative([records.read_json(path) for path in snakemake.input.manifests], roots),
        costs={Path(path).stem: records.read_json(path) for path in snakemake.input.costs},
        disjoint=records.read_json(snakemake.input.disjoint),
        benchmarks={
            rule: {provenance.relative(path, roots): provenance.read_benchmark(path) for path in paths}
            for rule, paths in snakemake.params.benchmarks.items()
        },
        pipeline=job.pipeline(),
        versions=job.versions(),
        hardware={rule: provenance.read_hardware(paths) for rule, paths in snakemake.params.benchmarks.items()},
    )
    html = provenance.page(origin, records.read_csv(snakemake.input.results))
    with files.whole_file(snakemake.output.html) as path:
        path.write_text(html, encoding="utf-8")
