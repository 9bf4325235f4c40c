"""JPEGs of a .beton file to what the network sees: decoded, cut to their boxes and scaled to 224 x 224, RGB.

Both backends see the same boxes. Their pixels differ by a few grey levels, since FFCV decodes with libjpeg-turbo's fast
integer transform and Pillow with the accurate one: results belong to the backend, which run.json names. Both scale by
OpenCV's INTER_AREA.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.beton import Beton, Ints
from pipeline.data.digest import Images
from pipeline.data.jpeg_store import decode
from pipeline.data.resized_crop import SIDE, RandomCrops, central_boxes, random_boxes


def boxes(beton: Beton, order: Ints, crops: RandomCrops | None) -> Ints:
    """int64 [len(order), 4]: top, left, height, width seen of each sample of `order`; None for the test view."""
    heights, widths = beton.heights[order], beton.widths[order]
    return central_boxes(heights, widths) if crops is None else random_boxes(crops, order, heights, widths)


def views(beton: Beton, indices: Ints, seen: Ints) -> Images:
    """uint8 [B, 224, 224, 3]: the samples `indices` cut to the boxes `seen` [B, 4], by Pillow, with a thread a core."""
    import cv2

    content = np.memmap(beton.path, dtype=np.uint8, mode="r")

    def view(i: int, box: Ints) -> npt.NDArray[Any]:
        start = beton.pointers[i]
        pixels = decode(content[start : start + beton.sizes[i]].tobytes(), f"{beton.path}: image {i}")
        top, left, height, width = box
        cut = pixels[top : top + height, left : left + width]
        return cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(view, indices, seen)))


def metadata_with_boxes(metadata: npt.NDArray[Any], order: Ints, seen: Ints) -> npt.NDArray[Any]:
    """FFCV's table of samples with a box for each sample of `order`.

    FFCV hands its compiled decoders this table each epoch; numba would freeze any other array at the first.
    """
    names = list(metadata.dtype.names or ())
    image = metadata.dtype[names[0]]
    fields = [(name, image[name]) for name in image.names or ()]
    with_box = np.dtype([*fields, *((name, "<u4") for name in ("top", "left", "rows", "columns"))])
    table = np.zeros(len(metadata), np.dtype([(names[0], with_box), (names[1], metadata.dtype[names[1]])], align=True))
    for name, _ in fields:
        table[names[0]][name] = metadata[names[0]][name]
    table[names[1]] = metadata[names[1]]
    for column, name in enumerate(("top", "left", "rows", "columns")):
        table[names[0]][name][order] = seen[:, column]
    table.setflags(write=False)
    return table


def ffcv_decoder() -> Any:
    """An FFCV decoder that cuts each image to the box in its row of `metadata_with_boxes`. FFCV must be there."""
    from dataclasses import replace

    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.libffcv import imdecode, resize_crop
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler

    class BoxDecoder(SimpleRGBImageDecoder):  # type: ignore[misc]
        def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, Any]:
            shape, dtype = (SIDE, SIDE, 3), np.dtype("u1")
            state = replace(previous_state, jit_mode=True, shape=shape, dtype=dtype)
            return state, AllocationQuery(shape, dtype)

        def generate_code(self) -> Any:
            read, samples = self.memory_read, Compiler.get_iterator()
            decode_jpeg, resize = Compiler.compile(imdecode), Compiler.compile(resize_crop)

            def decode_boxes(batch_indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
                failed = 0
                for k in samples(len(batch_indices)):
                    row = metadata[batch_indices[k]]
                    height, width = np.uint32(row["height"]), np.uint32(row["width"])
                    # Not in a buffer of FFCV's, which would hold the largest image for each place of each batch.
                    pixels = np.empty((height, width, 3), np.uint8)
                    content = read(row["data_ptr"], storage_state)
                    if decode_jpeg(content, pixels, height, width, height, width, 0, 0, 1, 1, False, False) != 0:
                        failed += 1
                    top, left = np.int64(row["top"]), np.int64(row["left"])
                    bottom, right = top + np.int64(row["rows"]), left + np.int64(row["columns"])
                    resize(pixels, top, bottom, left, right, destination[k])
                if failed > 0:
                    raise ValueError("libjpeg-turbo refuses a JPEG of the .beton file")
                return destination[: len(batch_indices)]

            decode_boxes.is_parallel = True  # type: ignore[attr-defined]
            return decode_boxes

    return BoxDecoder()
