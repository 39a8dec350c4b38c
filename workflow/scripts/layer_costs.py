"""Rule layer_costs: a backbone's cost table, the FLOPs of one token in each of its parts."""

from early_exit.base import job
from early_exit.base.errors import InputError
from early_exit.base.records import read_json, write_json
from early_exit.blocks import counted
from early_exit.costs.passes import cost_table, flops
from early_exit.experiment.config.policies import CHECKS
from early_exit.heads import store
from early_exit.sources import user_code


def user_check(kind: str):
    """The `check` of a policy's class in a user's file; InputError if it has none."""
    try:
        return user_code.load_class(kind).check
    except AttributeError as error:
        raise InputError(f"kind '{kind}': has no `check`, which says what one check costs") from error


with job.logged(snakemake) as log:
    config, params = read_json(snakemake.input.manifest)["config"], snakemake.params
    heads = {name: store.cost(design, config["hidden_size"], name) for name, design in params.heads.items()}
    checks = CHECKS | {kind: user_check(kind) for kind in params.policies}
    table = cost_table(config, heads, checks)
    table["counted"] = counted.check(config, table["block"])
    log.info(
        "a block's products, as torch's and fvcore's counters have them: %d FLOPs a token", table["block"]["linear"]
    )
    block = flops(table["block"])
    for part in ("heads", "state_fill"):
        for name, cost in table[part].items():
            log.info("%s %s: %.1f %% of a block without attention scores", part, name, 100 * flops(cost) / block)
    write_json(table, snakemake.output[0])
