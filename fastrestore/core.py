"""The compiled core, fastrestore._C.  It stands on numpy alone: no torch, no OpenMP."""

from fastrestore.errors import MissingDependency

try:
    from fastrestore import _C
except ImportError as error:
    raise MissingDependency(
        f"the compiled core fastrestore._C cannot be loaded ({error}): build it with `pip install .`, or with "
        "`python setup.py build_ext --inplace` in a source tree; it needs a C++17 compiler"
    ) from error

__all__ = ["_C"]
