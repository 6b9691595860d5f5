"""Compiled kernels for what numpy does slowly; each has a numpy path that gives the same.

They are built by `pip install` where there is a C compiler. Without one, or with PLMSCALE_NATIVE=0
in the environment, the numpy paths are taken.
"""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType

# The version of each kernel's functions. An editable install may hold a library older than the
# sources; it is then left aside until the next `pip install`.
KERNELS = {
    "_fasta": 1,
    "_rows": 2,
}


def load(name: str) -> ModuleType | None:
    """Return the kernel `name`, or None where its numpy path is to be taken."""
    if os.environ.get("PLMSCALE_NATIVE") == "0":
        return None
    return _imported(name)


def available() -> bool:
    """Return whether all kernels are in use."""
    return all(load(name) is not None for name in KERNELS)


@functools.cache
def _imported(name: str) -> ModuleType | None:
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ImportError:
        return None
    return module if KERNELS[name] == module.VERSION else None
