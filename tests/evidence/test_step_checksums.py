"""Does a training repeat to the bit, and where does it part when it does not?"""

from pathlib import Path

import torch
from small_trainings import training

from pipeline.evidence.step_checksums import first_difference, traced


class _Spoil:
    """Flips one bit of one number in the network's last bias at the start of the third step."""

    steps = 0

    def __call__(self, network: torch.nn.Module, _: object) -> None:
        self.steps += 1
        if self.steps == 3:
            network.get_parameter("fc.bias").data.view(torch.int32)[5] ^= 1 << 18


def test_equal_trainings_are_found_equal_and_a_changed_bit_with_its_step_and_tensor(
    tiny_beton: Path, tmp_path: Path
) -> None:
    for name in ("first", "second", "spoiled"):
        run = training(tiny_beton, tmp_path / name, epochs=1)
        if name == "spoiled":
            run.model.register_forward_pre_hook(_Spoil())
        traced(run, None)
    assert first_difference(tmp_path / "first", tmp_path / "second") is None
    found = first_difference(tmp_path / "first", tmp_path / "spoiled")
    assert found is not None
    assert found.startswith("after step 3, ")
    few = training(tiny_beton, tmp_path / "few", epochs=1)
    traced(few, 2)
    assert first_difference(tmp_path / "first", tmp_path / "few") is not None
