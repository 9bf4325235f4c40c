"""Trains one network by one protocol, step by step, from wherever it was left."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from pipeline.artifacts import EpochRecord, Progress
from pipeline.data.batches import Input, Inputs, Preprocessing
from pipeline.data.loader import Loader
from pipeline.data.sampler import Shard, Stream, draw, sample_order
from pipeline.errors import InterruptedTrainingError, UserError, WrnPipeError
from pipeline.params import Precision, Protocol
from pipeline.progress import say
from pipeline.tasks.task import Task
from pipeline.training.checkpoints import EMA, Checkpoints
from pipeline.training.device import computed_in, explain_compile_errors, facts, note_unrepeatable
from pipeline.training.hooks import Hooks, Monitor
from pipeline.training.optimizer import learning_rate, optimizer_of, resets_momentum
from pipeline.training.ranks import ALONE, Ranks

ASK_STEPS = 16
"""So often GPUs that train together agree on whether to save: each time their processes wait for each other."""
CHECK_LOSS_STEPS = 50
"""A non-finite loss is noticed within twice as many steps; to read it at once would stall a GPU."""


@dataclass(frozen=True)
class Training:
    """What is trained on what, how, and where its state is kept."""

    run_id: str
    protocol: Protocol
    seed: int
    task: Task
    model: nn.Module
    """Initialised, in training mode, on `device`."""
    loader: Loader
    preprocessing: Preprocessing
    device: torch.device
    scratch: Path
    """Named by the run's fingerprint."""
    hooks: Hooks = Hooks()  # noqa: RUF009 - it has no state
    ranks: Ranks = ALONE
    """Who trains it together. The loader delivers this one's share of a mini-batch."""
    test: Callable[[dict[str, torch.Tensor]], float] | None = None
    """The test error of weights, in percent, for the protocol's test_every."""

    @cached_property
    def precision(self) -> Precision:
        """What is computed in, which on some devices is not the protocol's."""
        return computed_in(self.protocol.precision, self.device)

    @property
    def facts(self) -> dict[str, str | int]:
        """What run.json says of where it trains: all that its bits depend on besides the protocol."""
        precision = {"precision": self.precision} if self.precision != self.protocol.precision else {}
        processes = {"processes": self.ranks.size} if self.ranks.size > 1 else {}
        return facts(self.device) | processes | precision


def train(training: Training, on_epoch: Callable[[EpochRecord, float], None]) -> Progress:
    """Train to the protocol's last epoch; `training.model` then holds the weights. Returns history and devices.

    Resumes from `training.scratch`, where the last state stays. `on_epoch` gets each epoch's record and training images
    per second. Raises InterruptedTrainingError on SIGINT or SIGTERM, WrnPipeError for a non-finite loss or weight, or
    when memory is short or a state cannot be saved.

    Ranks do the same steps, stop after the same one, and hold the same weights and totals; the first saves them.
    """
    loop, hooks, protocol, alone = _Loop(training), training.hooks, training.protocol, training.ranks.size == 1
    at, steps, batch, run_id = loop.at, loop.steps, protocol.batch_size, training.run_id
    if at.epoch < protocol.epochs:
        _note_device(at, training.facts)
    else:
        say(f"{run_id}: trained to its end by an earlier attempt; --fresh would train it again")
    done = at.epoch * steps + at.step
    watched = protocol.epochs, steps, batch, done, training.ranks.is_rank_zero
    with (
        hooks.stop_requests(alone) as loop.stop,
        note_unrepeatable(at.unrepeatable),
        hooks.explain_no_memory(run_id, lambda: loop.place("after", at.step)),
        explain_compile_errors(),
        hooks.monitor(run_id, training.scratch, *watched) as loop.monitor,
    ):
        loop.show(at.step, loop.totals.tolist())
        while at.epoch < protocol.epochs:
            started, first = time.perf_counter(), at.step
            loop.epoch()
            record = loop.record()
            rate = (steps - first) * batch / (time.perf_counter() - started)
            tested = ""
            if training.test and record.epoch % protocol.test_every == 0:
                record.test_error = training.test(training.model.state_dict() | (loop.ema.tensors if loop.ema else {}))
                tested = f"test error {record.test_error:.2f} %, "
            loop.show(at.step, loop.totals.tolist())
            at.history.append(record)
            at.epoch, at.step = at.epoch + 1, 0
            loop.totals.zero_()
            loop.monitor.say(
                f"{run_id} epoch {record.epoch}/{protocol.epochs}: loss {record.train_loss:.4f}, "
                f"train error {record.train_error:.2f} %, {tested}{rate:.0f} images/s"
            )
            on_epoch(record, rate)
            # The first rank has the clock; all of them save, or none.
            ends = at.epoch == protocol.epochs or bool(loop.stop)
            if training.ranks.largest(ends or loop.interval.due_at_epoch_end()):
                loop.save()
    if loop.ema:
        training.model.load_state_dict(loop.ema.tensors, strict=False)
    return at


def _note_device(at: Progress, here: dict[str, str | int]) -> None:
    last = {key: value for key, value in at.devices[-1].items() if key != "from_epoch"} if at.devices else None
    if last == here:
        return
    if last:
        before = f"until now on {last}, from here on {here}"
        say(f"{before}: sums round differently, so no single machine gives these bits; run.json names both")
    at.devices.append({**here, "from_epoch": at.epoch + 1})


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
        if self.step is not None and self.copied and not self.copied.query():
            return None
        seen = None if self.step is None else (self.step, self.copy.tolist())
        self.copy.copy_(self.tensor, non_blocking=True)
        if self.copied:
            self.copied.record()
        self.step = step
        return seen


class _Loop:
    """A training under way: what its steps change, and the saving of it when due or asked for."""

    def __init__(self, training: Training) -> None:
        protocol, ranks, model, batch = training.protocol, training.ranks, training.model, training.protocol.batch_size
        self.training, self.protocol, self.ranks, self.model = training, protocol, ranks, model
        self.forward = ranks.around(model)
        self.samples = training.loader.samples - protocol.holdout
        self.steps = self.samples // batch if protocol.drop_last else math.ceil(self.samples / batch)
        if self.steps <= 0:
            raise WrnPipeError(
                f"run {training.run_id}: {max(self.samples, 0)} images do not fill one mini-batch of {batch}",
                "lower batch_size, or set drop_last: false",
            )
        if (smallest := min(batch, self.samples - (self.steps - 1) * batch)) < ranks.size:
            raise UserError(
                f"run {training.run_id}: a mini-batch of {smallest} images is too small for {ranks.size} processes",
                "take fewer processes, or set drop_last: true",
            )
        self.optimizer = optimizer_of(protocol, model)
        # Of the epoch: summed loss, misclassified samples, steps since the loss is non-finite.
        self.totals = torch.zeros(3, dtype=torch.float64, device=training.device)
        shard, flip, crop, color = Shard(ranks.rank, ranks.size), protocol.flip, protocol.crop, protocol.color
        loader, seed, device = training.loader, training.seed, training.device
        dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
        self.inputs = Inputs(loader, training.preprocessing, flip, crop, seed, dtype, device, shard, batch, color)
        self.ema = EMA(model, protocol.weight_average) if protocol.weight_average else None
        self.states = Checkpoints(training.scratch, model, self.optimizer, self.totals, self.ema)
        self.at = self.states.resume()
        self.interval = training.hooks.checkpoint_interval()
        self.monitor = Monitor()
        self.stop: list[int] = []

    def epoch(self) -> None:
        """Do the steps of the epoch under way, from the one that is next, saving the state now and then."""
        protocol, at, steps, batch_size = self.protocol, self.at, self.steps, self.protocol.batch_size
        if at.step == 0 and resets_momentum(protocol, at.epoch):
            for parameter in self.model.parameters():
                self.optimizer.state[parameter].pop("momentum_buffer", None)
        shown, watched = AsyncCopy(self.totals), AsyncCopy(self.totals)
        order = sample_order(self.training.seed, at.epoch, self.training.loader.samples, protocol.holdout)
        order = order[: steps * batch_size]
        for batch in self.inputs.batches(at.epoch, order[at.step * batch_size :], at.step):
            self.optimizer.param_groups[0]["lr"] = learning_rate(protocol, at.epoch, at.step, steps)
            joined = min(batch_size, len(order) - at.step * batch_size)
            loss, wrong = self.step(batch, joined)
            added = torch.stack([loss * len(batch.labels), wrong])
            self.ranks.all_reduce_sum(added)
            self.totals[:2] += added
            self.totals[2] += ~self.totals[0].isfinite()
            at.step += 1
            if self.ema:
                self.ema.update(at.epoch * steps + at.step)
            if self.monitor.step(joined) and self.ranks.is_rank_zero and (seen := shown.at(at.step)):
                self.show(*seen)
            if at.step % CHECK_LOSS_STEPS == 0 and (seen := watched.at(at.step)):
                self._require_finite_loss(*seen)
            # The first rank's clock decides, and any of them may have been asked to stop: they save together. The last
            # step is saved together with the epoch's record.
            wanted = (self.ranks.is_rank_zero and self.interval.due()) or bool(self.stop)
            asks = self.ranks.size == 1 or self.training.device.type == "cpu" or at.step % ASK_STEPS == 0
            if asks and self.ranks.largest(wanted) and at.step < steps:
                self.save()

    def step(self, batch: Input, joined: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One update by a mini-batch of `joined` samples, of which `batch` is this rank's share. The share's mean loss
        and number of misclassified samples, float64 scalars on the device."""
        training, at, ranks, task = self.training, self.at, self.ranks, self.training.task
        if self.protocol.dropout:
            # The masks of a step do not depend on how many steps this process has done before; each rank has its own.
            place = at.step + (ranks.rank << 32)
            generator = torch.default_generator
            if training.device.type == "cuda":
                generator = torch.cuda.default_generators[training.device.index]
            generator.manual_seed(int(draw(training.seed, Stream.DROPOUT, at.epoch, place)[0] >> 1))
        with torch.autocast(training.device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            outputs = self.forward(batch.images)
        loss = task.loss(outputs, batch.labels)
        self.optimizer.zero_grad(set_to_none=True)
        ranks.scale_loss(loss, len(batch.labels), joined).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():
            return loss.detach().double(), task.count_errors(outputs, batch.labels).double()

    def record(self) -> EpochRecord:
        """Of the epoch whose steps are done; waits for the device. Raises WrnPipeError for a non-finite loss."""
        loss, wrong, since = self.totals.tolist()
        self._require_finite_loss(self.at.step, [loss, wrong, since])
        seen = min(self.steps * self.protocol.batch_size, self.samples)
        rate = learning_rate(self.protocol, self.at.epoch, self.steps - 1, self.steps)
        return EpochRecord(self.at.epoch + 1, rate, loss / seen, 100 * wrong / seen)

    def show(self, step: int, totals: list[float]) -> None:
        if self.ranks.is_rank_zero:
            self.monitor.show(self.at.epoch, step, *totals[:2])

    def save(self) -> None:
        """Save the state, then stop where that was asked for. Raises WrnPipeError for a non-finite loss or weight."""
        self._require_finite_loss(self.at.step, self.totals.tolist())
        state = self.model.state_dict()
        finite = torch.stack([value.isfinite().all() for value in state.values()])
        if not finite.all():
            raise self._non_finite(list(state)[finite.tolist().index(False)], self.at.step)
        if self.ranks.is_rank_zero:
            self.interval.saved(self.states.save(self.at), str(self.training.scratch))
        if signum := self.ranks.largest(self.stop[0] if self.stop else 0):  # which waits for the save
            place = f"in epoch {self.at.epoch + 1} after step {self.at.step}, saved as {self.states.newest}"
            raise InterruptedTrainingError(signum, place, self.training.run_id)

    def _require_finite_loss(self, step: int, totals: list[float]) -> None:
        loss, _, since = totals
        if not math.isfinite(loss):
            raise self._non_finite("loss", step - int(since) + 1)

    def _non_finite(self, what: str, step: int) -> WrnPipeError:
        remedy = "lower the learning rate or use precision: fp32 (another run, from its start)"
        return WrnPipeError(f"run {self.training.run_id}: non-finite {what} {self.place('at', step)}", remedy)

    def place(self, word: str, step: int) -> str:
        return f"in epoch {self.at.epoch + 1} {word} step {step}; last good state: {self.states.newest or 'none'}"
