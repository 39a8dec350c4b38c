"""A clock and a probe that say what a test wants them to."""


class Silent:
    """A probe that only notes when it was asked; every call takes 1 MiB more than the one before."""

    def __init__(self):
        self.calls = 0

    def begin(self):
        self.calls += 1

    def wait(self):
        pass

    def peak_mib(self):
        return float(self.calls)


def clock_of(durations):
    """A clock that lets each timed call last as long as the next of `durations` says."""
    times = [0.0]
    for duration in durations:
        times += [times[-1], times[-1] + duration]
    return iter(times[1:]).__next__
