"""FLOPs of answers with the fields of their price as keywords."""

from early_exit.costs import passes

OF_PRICE = ("exits", "head", "state_fill", "head_state", "check")


def generation_flops(table, **options):
    """`passes.generation_flops`; the options that are fields of `ExitPrice` make its price."""
    named = {name: options.pop(name) for name in OF_PRICE if name in options}
    return passes.generation_flops(table, **{"price": passes.ExitPrice(**named)} | options)
