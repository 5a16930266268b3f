"""The log of a run: CSV always, TensorBoard where it is installed."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

from tlt.io.files import atomic_write

log = logging.getLogger(__name__)


class RunLog:
    """Appends rows to ``log.csv``, and to ``tensorboard/``; rows after ``step`` are dropped.

    A run that was killed may have logged more than its checkpoint holds, or half a row.
    ``names`` are those of the task's terms and scores.
    """

    def __init__(self, folder: Path, step: int, names: Sequence[str]) -> None:
        self.path, self.board = folder / "log.csv", None
        self.columns = ["step", "seconds", "loss", *names]
        kept = _rows(self.path, step)
        atomic_write(self.path, "".join(line + "\n" for line in [",".join(self.columns), *kept]))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            log.info("no TensorBoard here; log.csv holds the same figures")
        else:
            self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def write(self, row: dict[str, float]) -> None:
        """One row; columns that it lacks stay empty."""
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})
        if self.board is not None:
            for name, value in row.items():
                if name != "step":
                    self.board.add_scalar(name, value, int(row["step"]))
            self.board.flush()

    def close(self) -> None:
        """Let go of the files."""
        if self.board is not None:
            self.board.close()


def _rows(path: Path, step: int) -> list[str]:
    """The whole rows of a log up to a step."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[1:-1]  # what follows the last line break is half a row
    return [line for line in lines if int(line.split(",", 1)[0]) <= step]
