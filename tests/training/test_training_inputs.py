"""A training sees, to the bit, what numpy and torch make of each batch in turn."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_trainings import ignore, training, weights

from pipeline.data.augmentation import augment, flips, offsets
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.readers import Splits
from pipeline.data.sampler import sample_order
from pipeline.training.loop import train
from pipeline.training.schedule import learning_rate

DROP = {"kind": "step", "drop_after": [1], "factor": 0.2, "reset_momentum": False}


@pytest.mark.parametrize(
    ("flip", "crop", "precision"), [("per-image", "per-image", "bf16"), ("half-batch", "per-batch", "fp32")]
)
def test_weights_are_those_of_the_plain_way(
    tiny_beton: Path, tmp_path: Path, tiny_images: Splits, flip: str, crop: str, precision: str
) -> None:
    """Under bf16 the plain way hands over float32, which autocast rounds."""
    settings = {"flip": flip, "crop": crop, "precision": precision, "epochs": 2, "batch_size": 96, "drop_last": False}
    run, plain = (training(tiny_beton, tmp_path / name, schedule=DROP, **settings) for name in ("run", "plain"))
    train(run, ignore)
    images, labels = tiny_images["train"]
    recipe, preprocessing = plain.protocol, Preprocessing("meanstd")
    optimizer = torch.optim.SGD(
        plain.model.parameters(), recipe.learning_rate, 0.9, nesterov=True, weight_decay=0.0005, fused=True
    )
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = learning_rate(recipe, epoch, 0, 3)
        order = sample_order(plain.seed, epoch, 260)
        for step in range(3):
            chosen = order[step * 96 : (step + 1) * 96]
            mirrored = flips(recipe.flip, plain.seed, epoch, chosen)
            moved = augment(images[chosen], mirrored, *offsets(recipe.crop, plain.seed, epoch, chosen, step))
            with torch.autocast("cpu", torch.bfloat16, enabled=run.precision == "bf16"):
                logits = plain.model(preprocessing(torch.from_numpy(moved))).float()
            optimizer.zero_grad()
            F.cross_entropy(logits, torch.from_numpy(labels[chosen]), label_smoothing=0.1).backward()
            optimizer.step()
    assert weights(run) == weights(plain)
