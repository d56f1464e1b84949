"""The compiled core, fastrestore._C.  It stands on numpy alone: no torch, no OpenMP."""

import time

from fastrestore.errors import MissingDependency

IMPORTED = time.time()  # before any operator, layer or network: they all begin here

try:
    from fastrestore import _C
except ImportError as error:
    raise MissingDependency(
        f"the compiled core fastrestore._C cannot be loaded ({error}): build it with `pip install .`, or with "
        "`python setup.py build_ext --inplace` in a source tree; it needs a C++17 compiler"
    ) from error

__all__ = ["IMPORTED", "_C"]
