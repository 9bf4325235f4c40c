"""Planning changes nothing but what it adds, however params.yaml is laid out, and a write is whole or not at all."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project import ROOT

from pipeline.errors import UserError
from pipeline.publication.claims import Claim
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.params_file import parse_plan
from pipeline.runner.plan_edit import extend, groups_of, write

SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")
RUN = "  cifar10-wrn-40-1-quick-s1:\n"


def chosen(*networks: str) -> list[Claim]:
    return [claim for claim in PAPER.claims if claim.table in ("3", "4", "6") and claim.network in networks]


@st.composite
def layouts(draw: st.DrawFn) -> str:
    """The shipped file with comments and blanks put anywhere, and other spellings of its parts."""
    text = SHIPPED
    if draw(st.booleans()):
        spelt = ['\n  - "4"', '\n- "4"  # mine', " []", ' [\n  "4",\n]', ' [ "4" ] # x']
        text = text.replace('tables: ["4"]', f"tables:{draw(st.sampled_from(spelt))}")
    if draw(st.booleans()):
        start = text.index(RUN)
        empty = draw(st.sampled_from(["runs: {}", "runs: {}  # none yet"]))
        text = text[:start].rstrip("\n").removesuffix("runs:") + empty + text[text.index("\n\n", start) :]
    if draw(st.booleans()):  # another order of sections, so that runs end the file
        head, _, tail = text.partition("# Run id -> settings.")
        runs, _, rest = tail.partition("# The paper's tables")
        text = f"{head}# The paper's tables{rest}\n# Run id -> settings.{runs.rstrip()}\n"
    lines = []
    for line in text.splitlines():
        indent = " " * draw(st.sampled_from([0, 2, 4, 7]))
        others = [[f"{line} "], ["", line], [f"{indent}# a: [comment", line], [f"{indent}#", "", line]]
        lines += draw(st.sampled_from([[line]] * 6 + others))
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    return ending.join(lines) + draw(st.sampled_from(["", ending, ending * 2]))


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(text=layouts(), seeds=st.integers(1, 3))
def test_every_byte_stays_and_the_rest_is_what_was_asked_for(text: str, seeds: int) -> None:
    old = parse_plan(text)
    claims = chosen("WRN-16-4", "WRN-40-1", "WRN-40-2-B(3,3,3)", "WRN-16-4-dropout")
    groups, _ = groups_of(PAPER, claims, old, None)
    new = extend(PAPER, text, groups, ["3", "4", "6"], seeds)
    kept = iter(new.after)
    assert all(character in kept for character in text), "some byte of the old text is gone or moved"
    lines = iter(new.after.splitlines())
    changed = ("tables", "runs: {}", '  "4",', "]")  # where the change is within a line; the line above checks it
    assert all(line in lines for line in text.splitlines() if not line.startswith(changed)), "some line is not whole"
    if "\r\n" in text:
        assert "\n" not in new.after.replace("\r\n", "")

    plan = parse_plan(new.after)
    wanted = [group.run_id(seed) for group in groups for seed in range(1, seeds + 1)]
    assert list(plan.runs) == [*old.runs, *wanted]
    assert set(plan.tables) == {"3", "4", "6"} | set(old.tables)
    for section in ("datasets", "representations", "protocols", "runs"):
        before, after = getattr(old, section), getattr(plan, section)
        assert list(after)[: len(before)] == list(before)
        assert {name: after[name] for name in before} == before
    assert (plan.loading, plan.device, plan.comparison) == (old.loading, old.device, old.comparison)
    assert extend(PAPER, new.after, groups, ["3", "4", "6"], seeds).after == new.after, "a second time adds"


def test_a_layout_with_no_place_is_refused() -> None:
    entry = "cifar10-rgb: {dataset: cifar10, kind: rgb}"
    assert f"representations:\n  {entry}" in SHIPPED
    text = SHIPPED.replace(f"representations:\n  {entry}", f"representations: {{{entry}}}")
    groups, _ = groups_of(PAPER, chosen("WRN-40-1"), parse_plan(text), None)
    with pytest.raises(UserError, match="stands in braces") as caught:
        extend(PAPER, text, groups, [], 1)
    line = 1 + text[: text.index("representations: {")].count("\n")
    assert f"params.yaml:{line}:" in caught.value.what


def test_a_write_keeps_mode_and_link_and_what_was_edited_meanwhile(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "params.yaml"
    real.write_text(SHIPPED)
    real.chmod(0o640)
    link.symlink_to(real)
    groups, _ = groups_of(PAPER, chosen("WRN-40-1"), parse_plan(SHIPPED), None)
    change = extend(PAPER, SHIPPED, groups, ["4"], 1)
    write(link, change)
    assert link.is_symlink()
    assert real.read_text() == change.after
    assert real.stat().st_mode & 0o777 == 0o640
    with pytest.raises(UserError, match="edited"):
        write(link, change)
    assert real.read_text() == change.after
