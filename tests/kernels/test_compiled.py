"""The kernels as a GPU would get them: compiled, on a machine that may have none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from minideepseek.ops.backend import KERNELS


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """Operation -> its kernels (see compile_for_gpu.py)."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
        "CUDA_VISIBLE_DEVICES": "",
    }
    script = Path(__file__).with_name("compile_for_gpu.py")
    result = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_for_hopper_and_move_sixteen_bytes_at_a_time(name: str, compiled: dict) -> None:
    assert len(compiled[name]) >= 2, "forward and backward"
    for kernel in compiled[name]:
        assert (kernel["ld"], kernel["st"]) == (16, 16), f"{kernel['kernel']} does not load or store whole vectors"
