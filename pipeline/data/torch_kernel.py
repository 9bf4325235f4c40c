"""`augmentation.augment` on any device that torch knows, for images that lie there."""

from functools import cache

import torch

from pipeline.data.augmentation import sources


def augment(
    images: torch.Tensor, at: torch.Tensor, mirrored: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """images[at[i]], mirrored, reflect-padded and cropped at (rows[i], columns[i]): [B,H,W,3] of the same dtype.

    images: [N,H,W,3]; at, rows, columns: int64 [B]; mirrored: bool [B]; all on one device. Waits for nothing.
    """
    height, width = images.shape[1:3]
    down = _on(images.device, height)[0][rows]
    straight, reverse = _on(images.device, width)
    across = torch.where(mirrored[:, None], reverse[columns], straight[columns])
    return images[at[:, None, None], down[:, :, None], across[:, None, :]]


@cache
def _on(device: torch.device, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`sources(size)` on a device, copied there once: a copy would wait for the device."""
    straight, reverse = (torch.from_numpy(table).to(device) for table in sources(size))
    return straight, reverse
