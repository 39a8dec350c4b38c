configfile: "docs/examples/head.yaml"


module early_exit:
    snakefile:
        "../../workflow/Snakefile"
    config:
        config


use rule * from early_exit
