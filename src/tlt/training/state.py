"""The state of a run on disk, from which it goes on bit for bit."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tlt.errors import InputError


@dataclass
class RunState:
    """Everything that changes while a network is trained.

    Attributes:
        network, average, optimizer: what is trained, its average, and what trains it.
        step: optimiser steps done.
        seconds: time they took, over all pieces of the run.
        running: smoothed terms of the loss.
        best: lowest score of a validation so far.
    """

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    running: dict[str, float] = field(default_factory=dict)
    best: float = float("inf")

    def save(self, path: Path, random: list[dict[str, Any]]) -> None:
        """Write the state, beside and renamed; ``random`` as `random_state` of each process."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "running": self.running,
            "best": self.best,
            "random": random,
        }
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def load(self, path: Path, process: int) -> None:
        """Take over the state of a file, with the random state of a process.

        Raises:
            InputError: not a checkpoint of such a network.
        """
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            for name in ("step", "seconds", "running", "best"):
                setattr(self, name, state[name])
            random = state["random"]
        except Exception as error:  # torch raises whatever the bytes make it
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{path}: no checkpoint of this network ({reason}); train into another output"
            ) from error
        set_random_state(random[process % len(random)])


def random_state() -> dict[str, Any]:
    """The state of torch's generators in this process (dropout draws from them)."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Go on with the generators where `random_state` was taken."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights, and batch statistics, towards the network's."""
    for mean, now in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)
