"""Epochs of a train stage, with loader, log and checkpoint, beside bare steps and what `wrn-pipe estimate` says.

By the protocol quick, without its look at the test split, on this checkout's CIFAR-10; in a folder that is deleted.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.benchmarks import measuring
from pipeline.benchmarks.measuring import ask, process, spread
from pipeline.benchmarks.plan_estimate import estimate
from pipeline.benchmarks.train_bench import DATA, default, training_rate
from pipeline.data.beton import open_split
from pipeline.progress import say
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.params_file import load
from pipeline.training.openmp_threads import wait_briefly

ROOT = Path(__file__).resolve().parents[1]
BARE_S = 5.0


def checkout(root: Path, network: str, epochs: int) -> None:
    """Make `root` a checkout of this code and data whose plan is one run, bench."""
    for name in ("pipeline", "stages", "environment", "dvc.yaml"):
        (root / name).symlink_to(ROOT / name)
    (root / DATA).parent.mkdir(parents=True)
    (root / DATA).symlink_to(DATA.resolve())
    params = YAML(typ="safe", pure=True).load(Path("params.yaml"))
    params["protocols"]["bench"] = {**params["protocols"]["quick"], "epochs": epochs, "test_every": 0}
    run = {"dataset": "cifar10", "representation": "rgb", "network": network, "protocol": "bench", "seed": 1}
    YAML().dump({**params, "runs": {"bench": run}}, root / "params.yaml")


def epoch_ends(root: Path, epochs: int) -> list[float]:
    """Train; when the stage printed the end of each epoch. Each line comes before the epoch is logged and saved, so
    between two of them there is one of everything."""
    ends: list[float] = []
    command = [sys.executable, "-m", "stages.train", "bench"]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as stage:
        assert stage.stderr is not None
        for line in stage.stderr:
            sys.stderr.write(line)
            if line.startswith(f"bench epoch {len(ends) + 1}/{epochs}: "):
                ends.append(time.perf_counter())
    if stage.returncode or len(ends) != epochs:
        sys.exit(f"the train stage ended with {stage.returncode}")
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="WRN-16-1")
    parser.add_argument("--epochs", type=int, default=2, help="timed, after a first one that is not")
    options = parser.parse_args()
    wait_briefly()
    with tempfile.TemporaryDirectory() as folder:
        checkout(Path(folder), options.network, options.epochs + 1)
        plan = load(Path(folder) / "params.yaml")
        (estimated,) = estimate(PAPER, plan, ["bench"], say)
        protocol = plan.protocols["bench"]
        with process(prepared=True, kernels=plan.kernels, setting=plan.device) as child:
            bf16 = protocol.precision == "bf16" and measuring.has_bf16(ask(child, measuring.device))
            bare = (options.network, protocol.batch_size, 32, default(bf16, kernels=plan.kernels), BARE_S)
            steps = [ask(child, training_rate, *bare)]
            ends = epoch_ends(Path(folder), options.epochs + 1)
            steps.append(ask(child, training_rate, *bare))
    images = open_split(DATA, "train").samples // protocol.batch_size * protocol.batch_size
    real = spread([images / (end - start) for start, end in pairwise(ends)])
    rate = estimated.images_per_s
    print(f"{options.network}, images/s: real epochs {real}, bare steps {spread(steps)}, estimated {rate:,.0f}")
    print(f"real epochs over bare steps {real.median / spread(steps).median:.3f}")
    print(f"estimated time over real time {real.median / rate:.3f}")


if __name__ == "__main__":
    main()
