"""TensorBoard, for those who watch runs there; the file of record is metrics.jsonl."""

from __future__ import annotations

from pathlib import Path

from minideepseek.errors import UserError
from minideepseek.train.metrics import Record


class Board:
    """Event files of a run.

    Args:
        folder: where they go.
        step: updates already made; what an earlier, killed run wrote beyond them is hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError('TensorBoard is not installed: pip install "minideepseek[tensorboard]"') from None
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, record: Record) -> None:
        """Add one point to each curve."""
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, record["step"])
