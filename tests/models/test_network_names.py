"""Reading and printing network names."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_networks import CLAIMED, NAMES, networks

from pipeline.errors import UserError
from pipeline.models.names import Network, parse

NAME = re.compile(r"(?:WRN|pre-act-ResNet|pre-ResNet|ResNet)-[^\s;]*[0-9)a-z]")


@settings(max_examples=50)
@given(networks())
def test_printing_is_the_inverse_of_parsing(network: Network) -> None:
    """So different networks have different names."""
    assert parse(network.name) == network


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("WRN-28-10", Network("wrn", 28, 10)),
        ("WRN-40-2-B(3,3)", Network("wrn", 40, 2)),
        ("WRN-22-2-B(3,1,3)-dropout", Network("wrn", 22, 2, (3, 1, 3), True)),
        ("WRN-34-2-B(3,3)", Network("wrn", 34, 2)),
        ("WRN-18-2.0", Network("imagenet-basic", 18, 2.0)),
        ("ResNet-34", Network("imagenet-basic", 34, 1.0)),
        ("WRN-50-2-bottleneck", Network("imagenet-bottleneck", 50, 2)),
        ("pre-act-ResNet-110", Network("preact-resnet", 110)),
        ("pre-ResNet-200", Network("imagenet-preact", 200)),
    ],
)
def test_parse(name: str, network: Network) -> None:
    assert parse(name) == network


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("WRN-27-10", "WRN-27-10: depth 27 is not 6N+4 with N from 1", "write WRN-22-10 or WRN-28-10"),
        ("WRN-4-1", "depth 4 is not 6N+4 with N from 1", "WRN-10-1"),
        ("WRN-42-2-B(3,3,3)", "depth 42 is not 9N+4", "write WRN-40-2-B(3,3,3) or WRN-49-2-B(3,3,3)"),
        ("WRN-18-2", "depth 18 is not 6N+4", "write WRN-18-2.0 for ImageNet, or for CIFAR WRN-16-2 or WRN-22-2"),
        ("WRN-50-2", "depth 50 is not 6N+4", "write WRN-50-2-bottleneck for ImageNet"),
        ("WRN-40-2-B(5,5)", "unknown block B(5,5)", "with at least one 3, without spaces, as in B(3,1,3)"),
        ("WRN-40-2-B(1,1)", "unknown block B(1,1)", "at least one 3"),
        ("WRN-40-2-B(3)-dropout", "B(3) has only one", "leave -dropout out"),
        ("WRN-40-0", "widen factor 0 is not a whole number from 1", "write WRN-28-10"),
        ("WRN-18-0.3", "widen factor 0.3", "WRN-18-1.5"),
        ("WRN-40-2-bottleneck", "depth 40 is not one of 50, 101, 152", "write WRN-50-2-bottleneck"),
        ("ResNet-100", "depth 100 is not one of 50, 101, 152", "write ResNet-101"),
        ("pre-ResNet-50", "depth 50 is not one of 200", "write pre-ResNet-200"),
        ("WRN-34-2", "COCO detector (MultiPathNet); only its classification backbone", "WRN-34-2.0"),
        ("WRN-28-10.0", "unknown network 'WRN-28-10.0'", "names are written like WRN-28-10"),
        ("WRN-50-2-bottleneck-B(3,3)", "unknown network", "WRN-50-2-bottleneck"),
        ("Wide-ResNet-34-10", "unknown network", "did you mean WRN-34-10?"),
        ("WRN-40-2_b(3, 1)", "unknown network", "did you mean WRN-40-2-B(3,1)?"),
        ("WRN-28-10\n", "unknown network 'WRN-28-10\\n'", "did you mean WRN-28-10?"),
    ],
)
def test_a_bad_name_says_what_is_wrong_and_what_to_write(name: str, what: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(name)
    assert what in caught.value.what
    assert remedy in caught.value.remedy


bad_looking = st.one_of(
    st.text("WRNResnetwide-_0123456789.(),B \n", max_size=30),
    st.builds(
        lambda head, d, k, tail: f"{head}-{d}-{k}{tail}",
        st.sampled_from(["WRN", "wrn", "ResNet", "Wide-ResNet"]),
        st.integers(0, 120),
        st.sampled_from(["0", "1", "2", "2.0", "1.3", "10", "x"]),
        st.sampled_from(["", "-dropout", "-B(3)", "-B(3)-dropout", "-B(1,3)", "-B(5)", "-bottleneck", "-B(3,3,3)"]),
    ),
    st.builds(lambda head, d: f"{head}ResNet-{d}", st.sampled_from(["", "pre-", "pre-act-"]), st.integers(0, 1300)),
)


@settings(max_examples=50)
@given(bad_looking)
def test_every_name_that_a_remedy_gives_is_valid(name: str) -> None:
    try:
        parse(name)
        return
    except UserError as error:
        caught = error
    assert "\n" not in caught.what + caught.remedy
    offered = NAME.findall(caught.remedy)
    for remedy in offered:
        assert parse(remedy)
    assert offered or "leave -dropout out" in caught.remedy or "as in B(3,1,3)" in caught.remedy


def test_every_network_of_the_claims_that_this_paper_ran_is_known() -> None:
    """Plus the pre-activation nets it compares itself with, but no other quoted nets and not COCO's detector."""
    quoted = {"NIN", "DSN", "FitNet", "Highway", "ELU"}
    quoted |= {f"{kind}-{depth}" for kind in ("original-ResNet", "stoc-depth") for depth in (110, 1202)}
    others = {model for model in {row["model"] for row in CLAIMED} - set(NAMES) if "-over-" not in model}  # gains
    assert others == quoted | {"WRN-34-2", "pre-act-ResNet-1001-batch-64"}
