"""The exceptions a user can catch.  Each message is one sentence that says what came and what was wanted."""


class FastrestoreError(Exception):
    """Base of every error that fastrestore raises on purpose."""


class ImageError(FastrestoreError, ValueError):
    """A picture cannot be read, is not of a supported kind, or exceeds a limit."""


class ModelError(FastrestoreError, ValueError):
    """A model file, recipe or configuration is refused; nothing from it was run."""


class UnsupportedOperator(FastrestoreError, NotImplementedError):
    """A module holds an operator that no plan can express; the message names it and its path."""


class MemoryBudgetError(FastrestoreError, MemoryError):
    """The work does not fit into the memory budget; the message states the number that would be needed."""


class MissingDependency(FastrestoreError, ImportError):
    """An optional package is needed; the message says what to install."""


class DeviceError(FastrestoreError, RuntimeError):
    """The device that was asked for is not there, or this build has no kernels for it."""
