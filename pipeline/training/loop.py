"""Trains one network by one protocol, step by step, from wherever it was left."""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.errors import WrnPipeError
from pipeline.loading.counter_hash import Stream, draw
from pipeline.loading.inputs import Input, Inputs
from pipeline.loading.loader import Loader
from pipeline.loading.order import sample_order
from pipeline.loading.preprocessing import Preprocessing
from pipeline.params import Protocol
from pipeline.progress import Task, progress, say
from pipeline.training.checkpoints import EpochRecord, Progress, resume, save
from pipeline.training.schedule import learning_rate, resets_momentum

CHECKPOINT_SECONDS = 60.0
CHECK_LOSS_STEPS = 50
"""A loss that is no number is noticed within so many steps; reading it each step would stall a GPU."""

OnEpoch = Callable[[EpochRecord, float], None]
"""Called after each epoch with its record and its training images per second."""


class InterruptedTrainingError(WrnPipeError):
    """The user or the scheduler stopped the training; its state is saved."""

    def __init__(self, signum: int, where: Path, run_id: str) -> None:
        super().__init__(
            f"{signal.Signals(signum).name}: stopped after {where.stem}, nothing is lost",
            f"continue with: wrn-pipe repro train@{run_id}",
        )
        self.signum = signum
        self.exit_code = 128 + signum


@dataclass(frozen=True)
class Training:
    """What is trained on what, how, and where its state is kept."""

    run_id: str
    protocol: Protocol
    seed: int
    model: nn.Module
    """Initialised, in training mode, on `device`."""
    loader: Loader
    preprocessing: Preprocessing
    device: torch.device
    scratch: Path


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The signals that asked to stop while the block runs; a second one kills at once."""
    received: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        signal.signal(signum, signal.SIG_DFL)
        say(f"{signal.Signals(signum).name}: finishing this step and saving")

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def train(training: Training, on_epoch: OnEpoch) -> list[EpochRecord]:
    """Train to the protocol's last epoch; `training.model` then holds the weights. Returns the history.

    Resumes from `training.scratch`. Raises InterruptedTrainingError on SIGINT or SIGTERM, WrnPipeError when the loss is
    no number.
    """
    protocol, model = training.protocol, training.model
    # Fused: one pass over the parameters; CPU and CUDA both have it.
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=protocol.learning_rate,
        momentum=protocol.momentum,
        nesterov=protocol.nesterov,
        weight_decay=protocol.weight_decay,
        fused=True,
    )
    totals = torch.zeros(2, dtype=torch.float64, device=training.device)  # summed loss, misclassified samples
    samples = training.loader.samples
    steps = samples // protocol.batch_size if protocol.drop_last else math.ceil(samples / protocol.batch_size)
    if steps == 0:
        raise WrnPipeError(
            f"run {training.run_id}: {samples} images do not fill one mini-batch of {protocol.batch_size}",
            "lower batch_size, or set drop_last: false",
        )
    dtype = torch.bfloat16 if protocol.precision == "bf16" else torch.float32
    inputs = Inputs(
        training.loader, training.preprocessing, protocol.flip, protocol.crop, training.seed, dtype, training.device
    )
    at = resume(training.scratch, model, optimizer, totals)
    with ExitStack() as stack:
        stop = stack.enter_context(_stop_signals())
        bar = None
        if sys.stderr.isatty():
            done = (at.epoch * steps + at.step) * protocol.batch_size
            label = f"train {training.run_id}"
            bar = stack.enter_context(progress(label, protocol.epochs * steps * protocol.batch_size, "images", done))
        while at.epoch < protocol.epochs:
            started, first = time.perf_counter(), at.step
            _epoch(training, inputs, optimizer, totals, at, steps, stop, bar)
            loss, wrong = totals.tolist()
            seen = min(steps * protocol.batch_size, samples)
            rate_at_end = learning_rate(protocol, at.epoch, steps - 1, steps)
            record = EpochRecord(at.epoch + 1, rate_at_end, loss / seen, 100 * wrong / seen)
            _require_finite(loss, training, at)
            at.history.append(record)
            at.epoch, at.step = at.epoch + 1, 0
            totals.zero_()
            rate = (steps - first) * protocol.batch_size / (time.perf_counter() - started)
            say(
                f"{training.run_id} epoch {record.epoch}/{protocol.epochs}: loss {record.train_loss:.4f}, "
                f"train error {record.train_error:.2f} %, {rate:.0f} images/s"
            )
            on_epoch(record, rate)
    return at.history


def _epoch(
    training: Training,
    inputs: Inputs,
    optimizer: torch.optim.Optimizer,
    totals: torch.Tensor,
    at: Progress,
    steps: int,
    stop: list[int],
    bar: Task | None,
) -> None:
    """Do the steps of epoch `at.epoch` from `at.step` on, saving the state now and then."""
    protocol, model = training.protocol, training.model
    if at.step == 0 and resets_momentum(protocol, at.epoch):
        for parameter in model.parameters():
            optimizer.state[parameter].pop("momentum_buffer", None)
    order = sample_order(training.seed, at.epoch, training.loader.samples)[: steps * protocol.batch_size]
    saved = time.monotonic()
    for batch in inputs.batches(at.epoch, order[at.step * protocol.batch_size :], at.step):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(protocol, at.epoch, at.step, steps)
        loss, wrong = _step(training, optimizer, at, batch)
        totals += torch.stack([loss * len(batch.labels), wrong])
        at.step += 1
        if bar:
            bar.advance(len(batch.labels))
        if at.step % CHECK_LOSS_STEPS == 0:
            _require_finite(totals[0].item(), training, at)
        if stop or time.monotonic() - saved > CHECKPOINT_SECONDS:
            _require_finite(totals[0].item(), training, at)
            path = save(training.scratch, at, model, optimizer, totals)
            saved = time.monotonic()
            if stop:
                raise InterruptedTrainingError(stop[0], path, training.run_id)


def _step(
    training: Training, optimizer: torch.optim.Optimizer, at: Progress, batch: Input
) -> tuple[torch.Tensor, torch.Tensor]:
    """One update. Mean loss and number of misclassified samples, float64 scalars on the device."""
    protocol = training.protocol
    if protocol.dropout:
        # The masks of a step do not depend on how many steps this process has done before.
        torch.manual_seed(int(draw(training.seed, Stream.DROPOUT, at.epoch, at.step)[0] >> 1))
    with torch.autocast(training.device.type, torch.bfloat16, enabled=protocol.precision == "bf16"):
        logits = training.model(batch.images).float()
    loss = F.cross_entropy(logits, batch.labels, label_smoothing=protocol.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    with torch.no_grad():
        return loss.detach().double(), (logits.argmax(1) != batch.labels).sum().double()


def _require_finite(loss: float, training: Training, at: Progress) -> None:
    if not math.isfinite(loss):
        kept = sorted(training.scratch.glob("epoch-*.safetensors"))
        raise WrnPipeError(
            f"run {training.run_id}: the loss is no number by epoch {at.epoch + 1}, step {at.step}; last good state: "
            + (kept[-1].name if kept else "none"),
            "lower the learning rate or use precision: fp32, then run it again",
        )
