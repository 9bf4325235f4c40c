"""What a network is shown of JPEGs in training: the boxes, colors and flips of (seed, epoch, sample), normalised."""

from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from made_up_runs import changed
from torch import nn

from pipeline.data import color
from pipeline.data.augmentation import RandomCrops, flips
from pipeline.data.beton import open_split
from pipeline.data.loader import Loader, boxes, views
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sampler import sample_order
from pipeline.params import Color
from pipeline.tasks.classification import Classification
from pipeline.training.loop import Training, train

N, SEED = 9, 3


class Small(nn.Module):
    """A linear classifier of the mean colour, that keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.shown: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown.append(images.detach().clone())
        return self.linear(images.mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", ["none", "jitter-lighting"])
def test_training_shows_the_boxes_colors_and_flips_of_the_epoch(tmp_path: Path, kind: Color) -> None:
    images = [photos.cutting(n, np.random.default_rng(n), 120) for n in range(N)]
    folder = photos.make_beton(tmp_path / "photos-jpeg", "train", images, np.arange(N) % 3)
    schedule = {"kind": "step", "drop_after": [1], "factor": 0.1, "reset_momentum": False}
    protocol = changed("paper-imagenet", epochs=2, batch_size=4, schedule=schedule, color=kind)
    model = Small()
    loader = Loader(folder, "train", protocol.batch_size, "numpy")
    preprocessing = Preprocessing(protocol.preprocessing)
    cpu, task = torch.device("cpu"), Classification()
    train(Training("x", protocol, SEED, task, model, loader, preprocessing, cpu, tmp_path / "scratch"), lambda *_: None)
    beton = open_split(folder, "train")
    assert [len(batch) for batch in model.shown] == [4, 4, 1] * 2
    shown = torch.cat(model.shown)
    for epoch in range(2):
        order = sample_order(SEED, epoch, N)
        images = views(beton, order, boxes(beton, order, RandomCrops(SEED, epoch)))
        mirrored = flips("per-image", SEED, epoch, order)
        assert 0 < mirrored.sum() < N
        images[mirrored] = images[mirrored, :, ::-1]
        colored = torch.from_numpy(images).float()
        if kind == "jitter-lighting":
            colored = color.apply(colored, *map(torch.from_numpy, color.coefficients(SEED, epoch, order)))
        expected = (colored.double() / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
        assert torch.allclose(shown[epoch * N :][:N].double(), expected.permute(0, 3, 1, 2), atol=1e-4)
