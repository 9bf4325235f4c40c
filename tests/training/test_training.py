"""Trainings of a small network on real images: what they are shown, and that a non-finite loss stops them.

What they compute tests/reference holds.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
import torch.nn.functional as F
from made_up_runs import changed
from project import RUN, Project
from small_trainings import ignore, training, weights, with_nan
from torch import nn

from pipeline.data.augmentation import flips, offsets
from pipeline.data.batches import Inputs, Preprocessing
from pipeline.data.loader import Loader
from pipeline.data.readers import Splits
from pipeline.data.sampler import sample_order
from pipeline.errors import WrnPipeError
from pipeline.runner.params_file import load
from pipeline.tasks.classification import Classification
from pipeline.training import device, loop
from pipeline.training.hooks import Hooks
from pipeline.training.loop import Training, train
from pipeline.training.optimizer import learning_rate
from pipeline.training.train_run import train_run


def test_bf16_is_to_the_bit_what_autocast_makes_of_float32_inputs(
    tiny_beton: Path, tmp_path: Path, tiny_images: Splits
) -> None:
    """By torch's own SGD on batches by numpy; the training hands over images that are rounded already."""
    settings = {"flip": "half-batch", "crop": "per-batch", "precision": "bf16", "batch_size": 96, "drop_last": False}
    run, plain = (training(tiny_beton, tmp_path / name, epochs=1, **settings) for name in ("run", "plain"))
    train(run, ignore)
    images, labels = tiny_images["train"]
    preprocessing = Preprocessing("meanstd")
    optimizer = torch.optim.SGD(plain.model.parameters(), 0.1, 0.9, nesterov=True, weight_decay=0.0005, fused=True)
    order = sample_order(plain.seed, 0, 260)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = learning_rate(plain.protocol, 0, step, 3)
        chosen = order[step * 96 : (step + 1) * 96]
        mirrored = flips("half-batch", plain.seed, 0, chosen)
        moved = photos.moved(images[chosen], mirrored, *offsets("per-batch", plain.seed, 0, chosen, step))
        with torch.autocast("cpu", torch.bfloat16, enabled=run.precision == "bf16"):
            logits = plain.model(preprocessing(torch.from_numpy(moved))).float()
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.from_numpy(labels[chosen]), label_smoothing=0.1).backward()
        optimizer.step()
    assert weights(run) == weights(plain)


def test_the_network_is_shown_the_batches_of_the_protocol_the_seed_and_the_epoch(tmp_path: Path) -> None:
    """Of photographs, whose boxes, colors and flips tests/data holds."""
    images = [photos.cutting(n, np.random.default_rng(n), 120) for n in range(9)]
    folder = photos.make_beton(tmp_path / "photos-jpeg", "train", images, np.arange(9) % 3)
    schedule = {"kind": "step", "drop_after": [1], "factor": 0.1, "reset_momentum": False}
    recipe = changed("paper-imagenet", epochs=2, batch_size=4, schedule=schedule)
    model, shown = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)), list[torch.Tensor]()
    model.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].clone()))
    loader, preprocessing, cpu = Loader(folder, "train", 4, "numpy"), Preprocessing("imagenet"), torch.device("cpu")
    train(Training("x", recipe, 3, Classification(), model, loader, preprocessing, cpu, tmp_path / "scratch"), ignore)
    inputs = Inputs(
        loader, preprocessing, "per-image", "random-resized", 3, torch.float32, cpu, color="jitter-lighting"
    )
    expected = [batch.images for epoch in range(2) for batch in inputs.batches(epoch, sample_order(3, epoch, 9))]
    assert [len(batch) for batch in shown] == [4, 4, 1] * 2
    assert all(map(torch.equal, shown, expected))


def test_without_instructions_for_bf16_a_training_computes_in_fp32_and_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(device, "_native_bf16", lambda: "")
    for precision in ("fp32", "bf16"):
        project.set_brief(precision=precision, epochs=1)
        train_run(load(), RUN, precision, Path("scratch") / precision, Path(precision), Hooks())
    fp32, bf16 = ((Path(name) / "model.safetensors").read_bytes() for name in ("fp32", "bf16"))
    assert fp32 == bf16
    for name in ("fp32", "bf16"):
        record = json.loads((Path(name) / "run.json").read_text())
        assert record["protocol"]["precision"] == name
        assert [where.get("precision") for where in record["devices"]] == [None if name == "fp32" else "fp32"]
    assert capsys.readouterr().err.count("computes in fp32, not in bf16: this cpu has no instructions for bf") == 1


def test_a_batch_larger_than_the_split_is_refused(tiny_beton: Path, tmp_path: Path) -> None:
    with pytest.raises(WrnPipeError, match="do not fill one mini-batch of 512"):
        train(training(tiny_beton, tmp_path, batch_size=512), ignore)


@pytest.mark.parametrize("spoiled", [3, 10, 11])
def test_a_non_finite_loss_ends_the_training_soon_and_with_its_step(
    tiny_beton: Path, tmp_path: Path, spoiled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within twice as many steps as lie between two looks: 5 here."""
    monkeypatch.setattr(loop, "CHECK_LOSS_STEPS", 5)
    run = training(tiny_beton, tmp_path / "fingerprint", batch_size=8, epochs=1)
    run, steps = with_nan(replace(run, hooks=Hooks()), "conv1.weight", spoiled - 1)
    with pytest.raises(WrnPipeError, match=rf"non-finite loss in epoch 1 at step {spoiled}; "):
        train(run, ignore)
    assert spoiled <= len(steps) < spoiled + 10
