"""Trainings of a small network on real images: what they compute, how they repeat, stop and resume."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from project import RUN, make_project
from small_trainings import ignore, training, weights
from torch.optim.optimizer import register_optimizer_step_post_hook

from pipeline.data.augmentation import augment, flips, offsets
from pipeline.data.readers import Splits
from pipeline.data.sampler import sample_order
from pipeline.errors import InterruptedTrainingError, WrnPipeError
from pipeline.models.build import build
from pipeline.params import Crop
from pipeline.runner.params_file import load
from pipeline.training import device, loop
from pipeline.training.hooks import Hooks
from pipeline.training.loop import train
from pipeline.training.train_run import train_run


@pytest.fixture(scope="module")
def folder(tiny_beton: Path) -> Path:
    return tiny_beton


@pytest.mark.parametrize(("crop", "holdout"), [("per-image", 0), ("per-batch", 0), ("per-image", 130)])
def test_steps_are_the_papers_updates(
    folder: Path, tmp_path: Path, tiny_images: Splits, crop: Crop, holdout: int
) -> None:
    """Four steps by hand, or two with half of the images held out: augmented images, smoothed cross-entropy, weight
    decay on every parameter, Nesterov momentum without dampening, and at the drop of the rate a momentum that starts
    anew."""
    schedule = {"kind": "step", "drop_after": [1], "factor": 0.2, "reset_momentum": True}
    settings = {"batch_size": 130, "epochs": 2, "weight_decay": 0.01, "label_smoothing": 0.1, "schedule": schedule}
    run = training(folder, tmp_path, crop=crop, holdout=holdout, **settings)
    by_hand = build("WRN-10-1", 10, conv_init="fan_out", bn_init="ones", seed=1)
    images, labels = tiny_images["train"]
    mean, std = torch.tensor([125.3, 123.0, 113.9]), torch.tensor([63.0, 62.1, 66.7])
    for epoch, rate in enumerate((0.1, 0.1 * 0.2)):
        momentum = {name: torch.zeros_like(p) for name, p in by_hand.named_parameters()}
        order = sample_order(1, epoch, 260, holdout)
        for step in range(len(order) // 130):
            chosen = order[step * 130 : (step + 1) * 130]
            moved = offsets(crop, 1, epoch, chosen, step)
            batch = augment(images[chosen], flips("per-image", 1, epoch, chosen), *moved)
            pixels = ((torch.from_numpy(batch) - mean) / std).permute(0, 3, 1, 2)
            loss = F.cross_entropy(by_hand(pixels), torch.from_numpy(labels[chosen]), label_smoothing=0.1)
            by_hand.zero_grad()
            loss.backward()
            with torch.no_grad():
                for name, p in by_hand.named_parameters():
                    assert p.grad is not None
                    gradient = p.grad + 0.01 * p
                    momentum[name] = 0.9 * momentum[name] + gradient
                    p -= rate * (gradient + 0.9 * momentum[name])
    history = train(run, ignore).history
    assert [row.learning_rate for row in history] == pytest.approx([0.1, 0.02])
    expected = dict(by_hand.named_parameters())
    for name, p in run.model.named_parameters():
        assert torch.allclose(p, expected[name], rtol=1e-3, atol=2e-4), name


def test_training_learns(folder: Path, tmp_path: Path) -> None:
    history = train(training(folder, tmp_path, network="WRN-10-2", epochs=12, batch_size=32), ignore).history
    assert [row.epoch for row in history] == list(range(1, 13))
    assert history[-1].train_loss < history[0].train_loss - 0.3
    assert history[-1].train_error < history[0].train_error - 15


def test_equal_inputs_give_equal_bits_and_another_seed_does_not(folder: Path, tmp_path: Path) -> None:
    runs = [training(folder, tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2))]
    histories = [train(run, ignore).history for run in runs]
    assert weights(runs[0]) == weights(runs[1])
    assert histories[0] == histories[1]
    assert weights(runs[0]) != weights(runs[2])


def test_without_instructions_for_bf16_a_training_computes_in_fp32_and_says_so(
    tiny_beton: Path,
    tiny_dataset_entry: Callable[[str], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = make_project(tmp_path / "project", tiny_dataset_entry("http://127.0.0.1:9/none"), tiny_beton)
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(device, "_native_bf16", lambda: "")
    for precision in ("fp32", "bf16"):
        project.edit(lambda params: params["loading"].update(backend="numpy"))
        project.edit(lambda params: params["protocols"]["brief"].update(precision=precision, epochs=1))  # noqa: B023
        train_run(load(), RUN, precision, Path("scratch") / precision, Path(precision), Hooks())
    fp32, bf16 = ((Path(name) / "model.safetensors").read_bytes() for name in ("fp32", "bf16"))
    assert fp32 == bf16
    for name in ("fp32", "bf16"):
        record = json.loads((Path(name) / "run.json").read_text())
        assert record["protocol"]["precision"] == name
        assert [where.get("precision") for where in record["devices"]] == [None if name == "fp32" else "fp32"]
    assert capsys.readouterr().err.count("computes in fp32, not in bf16: this cpu has no instructions for bf") == 1


def test_the_average_is_that_of_every_few_steps(folder: Path, tmp_path: Path) -> None:
    """Weights and batch statistics, by hand from those after every third of 8 steps; training itself is not changed."""
    plain = training(folder, tmp_path / "plain")
    seen: list[dict[str, torch.Tensor]] = []

    def note(*_: object) -> None:
        seen.append({k: v.detach().double() for k, v in plain.model.state_dict().items()})

    hook = register_optimizer_step_post_hook(note)
    history = train(plain, ignore).history
    hook.remove()
    averaged = training(folder, tmp_path / "averaged", weight_average={"decay": 0.75, "every": 3})
    assert train(averaged, ignore).history == history
    found = averaged.model.state_dict()
    for name, value in seen[2].items():
        if value.is_floating_point() and "num_batches" not in name:
            expected = 0.75 * value + 0.25 * seen[5][name]
            assert torch.allclose(found[name].double(), expected, rtol=1e-6, atol=1e-7), name
    finished = training(folder, tmp_path / "averaged", weight_average={"decay": 0.75, "every": 3})
    train(finished, ignore)
    assert weights(finished) == weights(averaged) != weights(plain)


def test_the_test_split_is_looked_at_by_the_weights_that_would_be_published(folder: Path, tmp_path: Path) -> None:
    """After every second epoch: the average, where weights are averaged. The training is not changed by it."""
    seen: list[dict[str, torch.Tensor]] = []

    def test(looked_at: dict[str, torch.Tensor]) -> float:
        seen.append({name: value.clone() for name, value in looked_at.items()})
        return 12.5 * len(seen)

    settings: dict[str, object] = {"epochs": 4, "weight_average": {"decay": 0.75, "every": 3}}
    plain = training(folder, tmp_path / "plain", **settings)
    history = train(plain, ignore).history
    run = replace(training(folder, tmp_path / "looking", **settings, test_every=2), test=test)
    looking = train(run, ignore).history
    assert [row.test_error for row in looking] == [None, 12.5, None, 25.0]
    assert [replace(row, test_error=None) for row in looking] == history
    assert weights(run) == weights(plain)
    final = run.model.state_dict()
    assert seen[1].keys() == final.keys()
    assert all(torch.equal(seen[1][name], value) for name, value in final.items())
    assert not torch.equal(seen[0]["conv1.weight"], seen[1]["conv1.weight"])


@pytest.mark.parametrize("network", ["WRN-10-1", "WRN-10-1-dropout"])
def test_a_stopped_training_resumes_to_the_same_bits(
    folder: Path, tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after every third step, through the real signal handler, it ends as if nothing had happened."""
    schedule = {"kind": "step", "drop_after": [1, 2], "factor": 0.2, "reset_momentum": True}
    settings = {"network": network, "epochs": 3, "batch_size": 48, "schedule": schedule}
    settings["weight_average"] = {"decay": 0.5, "every": 4}
    settings["dropout"] = 0.3 if network.endswith("dropout") else 0.0
    whole = training(folder, tmp_path / "whole", **settings)
    expected = train(whole, ignore)

    step = loop._step
    stops: list[tuple[int, str]] = []

    def stopping_step(*arguments: object) -> object:
        nonlocal done
        done += 1
        if done == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(loop, "_step", stopping_step)
    while True:
        done = 0
        part = training(folder, tmp_path / "parts", **settings)
        try:
            history = train(part, ignore)
            break
        except InterruptedTrainingError as stop:
            stops.append((stop.exit_code, stop.remedy))
    assert stops == [(143, "continue with: wrn-pipe repro train@tiny")] * 5
    assert history == expected
    assert weights(part) == weights(whole)


def test_a_batch_larger_than_the_split_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WrnPipeError, match="do not fill one mini-batch of 512"):
        train(training(folder, tmp_path, batch_size=512), ignore)


def test_the_last_partial_batch_counts_when_it_is_kept(folder: Path, tmp_path: Path) -> None:
    history = train(training(folder, tmp_path, epochs=1, batch_size=100, drop_last=False), ignore).history
    misclassified = history[0].train_error * 260 / 100
    assert misclassified == pytest.approx(round(misclassified), abs=1e-9)
