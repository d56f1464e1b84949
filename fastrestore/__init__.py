"""fastrestore: image restoration at speed.

import fastrestore as fr
clean = fr.restore(picture)
"""

from importlib import import_module
from typing import Any

# Where each public name lives; its module is imported when the name is first used, so that this import is quick.
_HOMES = {
    "restore": "restorer",
    "Restorer": "restorer",
    "open_image": "sources",
    "batch": "bulk",
    "load": "zoo",
    "create": "models",
    "compile": "engine",
    "Plan": "plan",
    "tiles": "tiled",
    "FastrestoreError": "errors",
    "ImageError": "errors",
    "ModelError": "errors",
    "UnsupportedOperator": "errors",
    "MemoryBudgetError": "errors",
    "MissingDependency": "errors",
}
_MODULES = ("models", "metrics", "degrade")  # models is callable: models() lists the named models

__all__ = sorted([*_HOMES, *_MODULES])
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
