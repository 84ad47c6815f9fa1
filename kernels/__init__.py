"""Triton kernels: ``<name>.py`` holds what ``minideepseek.ops`` calls ``<name>``, forward, backward and autograd glue.

Imported as ``minideepseek.kernels``. Nothing here is imported until a kernel is wanted, so the package works without
Triton. Under TRITON_INTERPRET=1 kernels run in Triton's interpreter, which is first made to compute what a GPU would.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

if os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y") and find_spec("triton"):
    from minideepseek.kernels.interpret import make_faithful

    make_faithful()
