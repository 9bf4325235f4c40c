"""Looking at a device's numbers without waiting for them."""

import torch


class AsyncCopy:
    """A copy of a small tensor that is asked for at one step and read at a later one, when it has long been made."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        # Only to page-locked memory does a GPU copy without the process waiting for it.
        self.copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        self.copied = torch.Event(tensor.device) if tensor.is_cuda else None
        self.step: int | None = None

    def at(self, step: int) -> tuple[int, list[float]] | None:
        """The values asked for last and their step; None where the device is not so far. Then asks for those of now."""
        seen = None
        if self.step is not None:
            if self.copied is not None and not self.copied.query():
                return None
            seen = self.step, self.copy.tolist()
        self.copy.copy_(self.tensor, non_blocking=True)
        if self.copied is not None:
            self.copied.record()
        self.step = step
        return seen
