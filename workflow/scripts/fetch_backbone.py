"""Rule fetch_backbone: download a backbone's files from the hub, or find them here, and write its manifest."""

from early_exit.base import job, records
from early_exit.base.files import ROOT
from early_exit.sources import manifests

with job.logged(snakemake) as log:
    name, spec = snakemake.wildcards.backbone, snakemake.params.spec
    folder, path = manifests.locate(name, spec, ROOT, local=snakemake.params.local)
    manifest = manifests.describe(name, spec, folder, path)
    log.info("%s: %s of %d blocks, sha256 %s", name, manifest["family"], manifest["depth"], manifest["sha256"])
    records.write_json(manifest, snakemake.output[0])
