"""Trains one network by one protocol, step by step, from wherever it was left."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from pipeline.data.batches import Input, Inputs
from pipeline.data.counter_rng import Stream, draw
from pipeline.data.loader import Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sampler import sample_order
from pipeline.errors import InterruptedTrainingError, UserError, WrnPipeError
from pipeline.kernels.apply import explain_no_compiling, waits_in_openmp
from pipeline.params import Precision, Protocol
from pipeline.progress import say
from pipeline.tasks import classification
from pipeline.training.async_copy import AsyncCopy
from pipeline.training.checkpoints import Checkpoints, EpochRecord, Progress
from pipeline.training.device import computed_in, facts, note_unrepeatable
from pipeline.training.ema import EMA
from pipeline.training.hooks import CheckpointInterval, Hooks, Monitor
from pipeline.training.ranks import ALONE, Ranks
from pipeline.training.schedule import learning_rate, resets_momentum

CHECK_LOSS_STEPS = 50
"""A loss that is no number is noticed within twice so many steps; to read it at once would stall a GPU."""

OnEpoch = Callable[[EpochRecord, float], None]
"""Called after each epoch with its record and its training images per second."""


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
    """Named by the run's fingerprint."""
    hooks: Hooks = Hooks()  # noqa: RUF009 - it has no state
    """What goes on around the steps."""
    ranks: Ranks = ALONE
    """Who trains it together. The loader delivers this one's share of a mini-batch."""
    forward: nn.Module | None = None
    """`model` as the ranks' steps call it; None: as it is."""
    test: Callable[[dict[str, torch.Tensor]], float] | None = None
    """The test error of weights, in percent, by which the protocol's test_every looks."""

    @cached_property
    def precision(self) -> Precision:
        """What is computed in, which on some devices is not the protocol's."""
        return computed_in(self.protocol.precision, self.device)

    @property
    def facts(self) -> dict[str, str | int]:
        """What run.json says of where it trains: all that its bits depend on besides the protocol."""
        differs = {"precision": self.precision} if self.precision != self.protocol.precision else {}
        return facts(self.device) | self.ranks.facts | differs


def train(training: Training, on_epoch: OnEpoch) -> Progress:
    """Train to the protocol's last epoch; `training.model` then holds the weights. Returns history and devices.

    Resumes from `training.scratch`, where the last state stays. Raises InterruptedTrainingError on SIGINT or SIGTERM,
    WrnPipeError when the loss or a weight is no number, memory is short or a state cannot be saved.

    Ranks do the same steps, stop after the same one, and hold the same weights and totals; the first saves them.
    """
    protocol, model, ranks, hooks = training.protocol, training.model, training.ranks, training.hooks
    # Fused: one pass over the parameters; CPU and CUDA both have it. Each step sets its own rate.
    optimizer = torch.optim.SGD(
        model.parameters(),
        momentum=protocol.momentum,
        nesterov=protocol.nesterov,
        weight_decay=protocol.weight_decay,
        fused=True,
    )
    # Of the epoch: summed loss, misclassified samples, steps since the loss is no number.
    totals = torch.zeros(3, dtype=torch.float64, device=training.device)
    samples = training.loader.samples - protocol.holdout
    steps = samples // protocol.batch_size if protocol.drop_last else math.ceil(samples / protocol.batch_size)
    if steps <= 0:
        raise WrnPipeError(
            f"run {training.run_id}: {max(samples, 0)} images do not fill one mini-batch of {protocol.batch_size}",
            "lower batch_size, or set drop_last: false",
        )
    if (smallest := min(protocol.batch_size, samples - (steps - 1) * protocol.batch_size)) < ranks.size:
        raise UserError(
            f"run {training.run_id}: a mini-batch of {smallest} images is too small for {ranks.size} processes",
            "take fewer processes, or set drop_last: true",
        )
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    inputs = Inputs(
        training.loader,
        training.preprocessing,
        protocol.flip,
        protocol.crop,
        training.seed,
        dtype,
        training.device,
        ranks.shard,
        protocol.batch_size,
    )
    ema = EMA(model, protocol.weight_average) if protocol.weight_average else None
    states = Checkpoints(training.scratch, model, optimizer, totals, ema)
    at = states.resume()
    ranks.require_equal(
        (at.epoch << 32) + at.step,
        f"run {training.run_id}: its processes resumed from different states in {training.scratch}",
        "start it again; if that repeats, delete the newest state there",
    )
    if at.epoch < protocol.epochs:
        _note_device(at, training.facts)
    else:
        say(f"{training.run_id}: trained to its end by an earlier attempt; --fresh would train it again")
    with ExitStack() as stack:
        stop = stack.enter_context(hooks.stop_requests(alone=ranks.size == 1))
        keeper = _Keeper(training, states, at, stop, hooks.checkpoint_interval(), AsyncCopy(totals))
        stack.enter_context(note_unrepeatable(at.unrepeatable))
        stack.enter_context(hooks.explain_no_memory(training.run_id, keeper.where))
        stack.enter_context(explain_no_compiling())
        epochs, batch, done = protocol.epochs, protocol.batch_size, at.epoch * steps + at.step
        watched = hooks.monitor(training.run_id, training.scratch, epochs, steps, batch, done, ranks.leads)
        monitor = stack.enter_context(watched)
        yields = ranks.size == 1 and waits_in_openmp(model, training.precision)
        make_way = stack.enter_context(hooks.make_way()) if yields else None
        if ranks.leads:
            monitor.show(at.epoch, at.step, *totals.tolist()[:2])
        while at.epoch < protocol.epochs:
            started, first = time.perf_counter(), at.step
            _epoch(training, inputs, optimizer, at, steps, keeper, monitor, make_way)
            loss, wrong, _ = totals.tolist()
            seen = min(steps * protocol.batch_size, samples)
            rate_at_end = learning_rate(protocol, at.epoch, steps - 1, steps)
            record = EpochRecord(at.epoch + 1, rate_at_end, loss / seen, 100 * wrong / seen)
            keeper.require_finite()
            rate = (steps - first) * protocol.batch_size / (time.perf_counter() - started)
            if training.test and protocol.test_every and record.epoch % protocol.test_every == 0:
                record.test_error = training.test({**model.state_dict(), **(ema.tensors if ema else {})})
            if ranks.leads:
                monitor.show(at.epoch, at.step, loss, wrong)
            at.history.append(record)
            at.epoch, at.step = at.epoch + 1, 0
            totals.zero_()
            tested = "" if record.test_error is None else f"test error {record.test_error:.2f} %, "
            monitor.say(
                f"{training.run_id} epoch {record.epoch}/{protocol.epochs}: loss {record.train_loss:.4f}, "
                f"train error {record.train_error:.2f} %, {tested}{rate:.0f} images/s"
            )
            on_epoch(record, rate)
            keeper.save()
    if ema:
        ema.copy_to(model)
    return at


@dataclass
class _Keeper:
    """Watches over a training's steps: saves its state when due or asked, and stops at what is no number."""

    training: Training
    states: Checkpoints
    at: Progress
    stop: list[int]
    interval: CheckpointInterval
    copy: AsyncCopy

    def stepped(self, steps: int) -> None:
        """After each of an epoch's `steps`; the last one is saved together with the epoch's record."""
        if self.at.step % CHECK_LOSS_STEPS == 0:
            seen = self.copy.at(self.at.step)
            if seen is not None:
                self._require_finite(*seen)
        # The first rank's clock decides, and any of them may have been asked to stop: they save together.
        ranks = self.training.ranks
        wanted = (ranks.leads and self.interval.due()) or bool(self.stop)
        if ranks.largest(wanted) and self.at.step < steps:
            self.save()

    def save(self) -> None:
        self.require_finite()
        for name, value in self.training.model.state_dict().items():
            if not value.isfinite().all():
                raise self._no_number(name, self.at.step)
        if self.training.ranks.leads:
            self.states.save(self.at)
            self.interval.saved(self.states.seconds, str(self.training.scratch))
        if signum := self.training.ranks.largest(self.stop[0] if self.stop else 0):  # which waits for the save
            place = f"in epoch {self.at.epoch + 1} after step {self.at.step}, saved as {self.states.newest}"
            raise InterruptedTrainingError(signum, place, self.training.run_id)

    def require_finite(self) -> None:
        """Of all steps up to now; waits for the device."""
        self._require_finite(self.at.step, self.states.totals.tolist())

    def _require_finite(self, step: int, totals: list[float]) -> None:
        loss, _, since = totals
        if not math.isfinite(loss):
            raise self._no_number("the loss", step - int(since) + 1)

    def where(self) -> str:
        return (
            f"in epoch {self.at.epoch + 1} after step {self.at.step}; last good state: {self.states.newest or 'none'}"
        )

    def _no_number(self, what: str, step: int) -> WrnPipeError:
        return WrnPipeError(
            f"run {self.training.run_id}: {what} is no number in epoch {self.at.epoch + 1} at step {step}; "
            f"last good state: {self.states.newest or 'none'}",
            "lower the learning rate or use precision: fp32 (another run, from its start)",
        )


def _note_device(at: Progress, here: dict[str, str | int]) -> None:
    if at.devices and at.devices[-1] != here:
        say(
            f"until now on {at.devices[-1]}, from here on {here}: sums round otherwise, so no single machine gives "
            "these bits; run.json names both"
        )
    if not at.devices or at.devices[-1] != here:
        at.devices.append(here)


def _epoch(
    training: Training,
    inputs: Inputs,
    optimizer: torch.optim.Optimizer,
    at: Progress,
    steps: int,
    keeper: _Keeper,
    monitor: Monitor,
    make_way: Callable[[], None] | None,
) -> None:
    """Do the steps of epoch `at.epoch` from `at.step` on, saving the state now and then."""
    protocol, model = training.protocol, training.model
    if at.step == 0 and resets_momentum(protocol, at.epoch):
        for parameter in model.parameters():
            optimizer.state[parameter].pop("momentum_buffer", None)
    shown = AsyncCopy(keeper.states.totals)
    order = sample_order(training.seed, at.epoch, training.loader.samples, protocol.holdout)
    order = order[: steps * protocol.batch_size]
    for batch in inputs.batches(at.epoch, order[at.step * protocol.batch_size :], at.step):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(protocol, at.epoch, at.step, steps)
        joined = min(protocol.batch_size, len(order) - at.step * protocol.batch_size)
        loss, wrong = _step(training, optimizer, at, batch, joined)
        if make_way:
            make_way()
        totals, added = keeper.states.totals, torch.stack([loss * len(batch.labels), wrong])
        training.ranks.add_up(added)
        totals[:2] += added
        totals[2] += ~totals[0].isfinite()
        at.step += 1
        if keeper.states.ema:
            keeper.states.ema.update(at.epoch * steps + at.step)
        if monitor.step(joined) and training.ranks.leads and (seen := shown.at(at.step)):
            monitor.show(at.epoch, seen[0], *seen[1][:2])
        keeper.stepped(steps)


def _step(
    training: Training, optimizer: torch.optim.Optimizer, at: Progress, batch: Input, joined: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One update by a mini-batch of `joined` samples, of which `batch` is this rank's share. The share's mean loss and
    number of misclassified samples, float64 scalars on the device."""
    protocol, ranks = training.protocol, training.ranks
    if protocol.dropout:
        # The masks of a step do not depend on how many steps this process has done before; each rank has its own.
        place = at.step + (ranks.rank << 32)
        torch.manual_seed(int(draw(training.seed, Stream.DROPOUT, at.epoch, place)[0] >> 1))
    with training.hooks.own_cores() if training.device.type == "cpu" else nullcontext():
        with torch.autocast(training.device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            logits = (training.forward or training.model)(batch.images).float()
        loss = classification.loss(logits, batch.labels, protocol.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        ranks.weigh(loss, len(batch.labels), joined).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return loss.detach().double(), classification.count_errors(logits, batch.labels).double()
