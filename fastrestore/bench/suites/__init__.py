"""The suites.  A module of a suite has

AXES: what its cases vary in, by name, the whole of it; SHORT: the cases of `make bench`, as options; QUICK: values of
axes, and options, with which each case shows in seconds whether all works.
name(**options): of the result's file.  run(**options): measures one case, in a process of its own, and returns the
result.  text(result): what a person reads of it.
"""

from fastrestore.bench.suites import kernels, latency, memory, models, pictures, quality, startup

SUITES = {
    "kernels": kernels,
    "models": models,
    "latency": latency,
    "memory": memory,
    "pictures": pictures,
    "startup": startup,
    "quality": quality,
}
