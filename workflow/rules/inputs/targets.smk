"""What the targets ask for."""


def answered_files():
    """The files of all jobs that answer."""
    parts = [(pair, part) for pair in PAIRS for part in runs.ANSWERED_BY]
    return [file for pair, part in parts for split in ("calibration", "test") for file in answers(part, split)(pair)]


def kept_files():
    """The files in which these jobs keep their answers."""
    parts = [(pair, part) for pair in PAIRS for part in runs.ANSWERED_BY if runs.policies(EXPERIMENT, pair, part)]
    jobs = [
        (part, {**vars(pair), "shard": shard}) for pair, part in parts for shard in work.shards(EXPERIMENT, pair, part)
    ]
    return [fill(kept_pattern(part), **job) for part, job in jobs]
