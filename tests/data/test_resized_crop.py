"""Boxes of random resized crops: against a slow reference in exact arithmetic, and the distribution of the recipe."""

from decimal import Decimal, getcontext

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.counter_rng import Stream, draw
from pipeline.data.resized_crop import ATTEMPTS, RandomCrops, central_boxes, random_boxes

getcontext().prec = 60


def reference(crops: RandomCrops, index: int, height: int, width: int) -> tuple[int, int, int, int]:
    """The recipe for one image, in 60 decimal digits."""

    def bits(stream: Stream, i: int) -> int:
        return int(draw(crops.seed, stream, crops.epoch, i)[0])

    def pick(stream: Stream, n: int) -> int:
        return (bits(stream, index) >> 32) * n >> 32

    def nearest(x: Decimal) -> int:
        return int(x + Decimal("0.5"))

    for attempt in range(ATTEMPTS):
        at = index * ATTEMPTS + attempt
        share = Decimal("0.08") + Decimal("0.92") * (bits(Stream.BOX_AREA, at) >> 11) / Decimal(2**53)
        step = bits(Stream.BOX_RATIO, at) >> 48
        ratio = Decimal("0.75") * (Decimal(16) / 9) ** (Decimal(step) / 65536)
        area = share * height * width
        h, w = nearest((area / ratio).sqrt()), nearest((area * ratio).sqrt())
        if 0 < h <= height and 0 < w <= width:
            return pick(Stream.BOX_TOP, height - h + 1), pick(Stream.BOX_LEFT, width - w + 1), h, w
    h, w = min(height, nearest(Decimal(4 * width) / 3)), min(width, nearest(Decimal(4 * height) / 3))
    return (height - h) // 2, (width - w) // 2, h, w


sides = st.integers(1, 2000)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 500),
    st.lists(st.tuples(st.integers(0, 2_000_000), sides, sides), min_size=1, max_size=8),
)
def test_the_boxes_are_the_reference_and_lie_in_the_image(
    seed: int, epoch: int, images: list[tuple[int, int, int]]
) -> None:
    indices, heights, widths = (np.array(column, np.int64) for column in zip(*images, strict=True))
    crops = RandomCrops(seed, epoch)
    made = random_boxes(crops, indices, heights, widths)
    assert made.dtype == np.int64
    assert [tuple(box) for box in made.tolist()] == [reference(crops, *image) for image in images]
    for top, left, height, width in (made.T, central_boxes(heights, widths).T):
        assert (np.minimum(top, left) >= 0).all()
        assert (np.minimum(height, width) >= 1).all()
        assert (top + height <= heights).all()
        assert (left + width <= widths).all()


def test_an_image_that_no_attempt_fits_shows_its_largest_central_box_and_a_test_the_centre() -> None:
    for size, box in {
        (10, 1000): (0, 493, 10, 13),
        (1000, 10): (493, 0, 13, 10),
        (1, 1): (0, 0, 1, 1),
        (1, 5): (0, 2, 1, 1),
    }.items():
        one = [np.array([side]) for side in size]
        assert box in {tuple(random_boxes(RandomCrops(1, e), np.array([0]), *one)[0].tolist()) for e in range(50)}
    for size, box in {
        (256, 256): (16, 16, 224, 224),
        (256, 400): (16, 88, 224, 224),
        (512, 300): (125, 19, 262, 262),
        (8, 9): (0, 1, 7, 7),
        (1, 3): (0, 1, 1, 1),
    }.items():
        assert tuple(central_boxes(*(np.array([side]) for side in size))[0].tolist()) == box
