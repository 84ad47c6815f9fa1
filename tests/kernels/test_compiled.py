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


#: Kernels that write a number a row, or a few rows, and nothing longer.
WRITE_LITTLE = {
    ("choose_experts", "_choose_kernel"),
    ("attention", "_inner_kernel"),
    ("attention", "_join_kernel"),
    ("latent_attention", "_join_kernel"),
    ("linear_log_probs", "_loss_kernel"),
    ("rms_linear", "_forward_kernel"),
}
#: Kernels whose products have too few rows, or too many bits, for Hopper's own instruction.
SMALL = {
    ("attention", "_part_kernel"),
    ("latent_attention", "_part_kernel"),
    ("rms_linear", "_forward_kernel"),
    ("rms_linear", "_backward_kernel"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KERNELS, "fp8_linear"])
def test_kernels_compile_for_hopper_and_move_sixteen_bytes_at_a_time(name: str, compiled: dict) -> None:
    assert compiled[name]
    for kernel in compiled[name]:
        if name == "sinkhorn":  # its rows are four numbers long
            continue
        assert kernel["load"] == 16, f"{kernel['kernel']} does not load whole vectors"
        if (name, kernel["kernel"]) not in WRITE_LITTLE:
            assert kernel["store"] == 16, f"{kernel['kernel']} does not store whole vectors"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KERNELS, "fp8_linear"])
def test_kernels_fit_a_hopper_multiprocessor_and_use_its_tensor_cores(name: str, compiled: dict) -> None:
    for kernel in compiled[name]:
        assert kernel["shared"] <= 232_448, f"{kernel['kernel']} wants more shared memory than a program can have"
        assert kernel["spilled"] == 0, f"{kernel['kernel']} does not fit its registers"
        if kernel["multiplies"]:
            fits = ("wgmma", "mma.sync") if (name, kernel["kernel"]) in SMALL else ("wgmma",)
            assert kernel["tensor_cores"] in fits, f"{kernel['kernel']} multiplies the slow way"
