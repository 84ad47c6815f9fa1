"""What every test stands on: one thread, no network, and no trace in the home of whoever runs it."""

import os
from collections.abc import Iterator

# Before torch is imported. Two test processes on two cores are quicker than one whose threads wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import pytest
import torch

torch.set_num_threads(1)

# Triton reads this once, when it is first imported, and transformers and torch.compile import it: before all of them.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache of the session's own, also for the processes that tests start."""
    os.environ["MINIDEEPSEEK_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Nobody in particular, where the tests run as root: to root no file is closed."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
