"""The processes of one training: one alone, or several that a launcher started, on GPUs or hosts, over accelerate."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastrestore.errors import DeviceError, MissingDependency, ModelError

# What accelerate launch sets for each process that it starts, and torchrun.
LAUNCHERS = ("ACCELERATE_MIXED_PRECISION", "WORLD_SIZE")


class Team:
    """This process among those that train together; each learns from its share of every batch.

    All hold the same weights: they begin with the same seed or state, and step with the mean of their gradients.
    """

    def __init__(self, device: str | None = None):
        """device: cpu or cuda; None is what the launcher says, and the CPU without one.  With a launcher each process
        takes a GPU of its own.  Raises DeviceError for a device that is not there, MissingDependency for a launcher
        without accelerate."""
        if device not in (None, "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
            raise DeviceError(f"training runs on cpu or cuda, and there is no {device:.20} here")
        self._accelerator = None
        if any(name in os.environ for name in LAUNCHERS):
            try:
                from accelerate import Accelerator
            except ImportError as error:
                raise MissingDependency(
                    "several processes need accelerate: pip install 'fastrestore[train]'"
                ) from error
            self._accelerator = Accelerator(cpu=device == "cpu" or not torch.cuda.is_available())
        alone = self._accelerator is None
        self.device = torch.device(device or "cpu") if alone else self._accelerator.device
        self.size = 1 if alone else self._accelerator.num_processes
        self.rank = 0 if alone else self._accelerator.process_index

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def share(self, batch: int) -> int:
        """This process's part of so many samples.  Raises ModelError where they cannot be shared alike."""
        if batch % self.size:
            raise ModelError(f"recipe: a batch of {batch} cannot be shared by {self.size} processes")
        return batch // self.size

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces the gradients by their mean over the processes."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        mean = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes, the same bits in each."""
        return value if self.size == 1 else self._accelerator.reduce(value, "mean")

    def from_first(self, value: float) -> float:
        """What the first process has for a value that differs, as a clock's does."""
        own = torch.tensor(value if self.is_first else 0.0, dtype=torch.float64, device=self.device)
        return value if self.size == 1 else self._accelerator.reduce(own, "sum").item()

    def wait(self) -> None:
        """Until all have come here."""
        if self._accelerator:
            self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Ends the connections; the training is over."""
        if self._accelerator:
            self._accelerator.end_training()
