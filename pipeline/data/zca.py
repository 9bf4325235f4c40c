"""The authors' whitening, which is pylearn2's: global contrast normalisation, then ZCA fitted on the training images.

    x = 55 (x - mean of x) / |x - mean of x|          for each image alone, over its 3072 values
    X = X - feature mean of the training images
    P = V diag(1 / sqrt(eigenvalues)) V'              of the covariance X'X / N + 0.1 I of the training images
    whitened = X P                                    for both splits, with the training images' mean and P

Reordering an image's values by Q turns P into Q'PQ, which gives the same values at their new places: here the order is
row, column, channel, in pylearn2 channel, row, column. Nor does P depend on the signs of eigenvectors, which LAPACK is
free to choose. The last digits do differ between LAPACK and BLAS builds, so the whitened images are stored once and
everybody trains on the same bytes. Fitted in float64, stored in float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.digest import Images, Stored
from pipeline.progress import progress

SCALE = 55.0
BIAS = 0.1
_MIN_NORM = 1e-8
"""An image of one colour has no contrast to normalise: its values stay 0, as in pylearn2."""

_CHUNK = 2500
"""61 MB of float64. A constant, since the order of summation is seen in the last digits."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Whitening:
    """What the training images, of D values each, determine: mean [D] of them contrast-normalised, the matrix P [D, D],
    and eigenvalues [D] of the covariance with BIAS on its diagonal, the smallest first."""

    mean: Floats
    matrix: Floats
    eigenvalues: Floats


def normalize_contrast(images: Images) -> Floats:
    """uint8 [N, ...] -> float64 [N, D]: each image with mean 0 and L2 norm SCALE."""
    X = images.reshape(len(images), -1).astype(np.float64)
    X -= X.mean(axis=1, keepdims=True)
    norms = np.sqrt((X * X).sum(axis=1, keepdims=True))
    X *= SCALE / np.where(norms < _MIN_NORM, 1.0, norms)
    return X


def fit(train: Images) -> Whitening:
    """Learn the whitening from training images uint8 [N, ...] alone."""
    mean = np.zeros(train[0].size)
    with progress("ZCA: mean and covariance", 2 * len(train), "images") as task:
        for chunk in chunks(train):
            mean += normalize_contrast(chunk).sum(axis=0)
            task.advance(len(chunk))
        mean /= len(train)
        covariance = np.zeros((len(mean), len(mean)))
        for chunk in chunks(train):
            X = normalize_contrast(chunk) - mean
            covariance += X.T @ X
            task.advance(len(chunk))
    covariance /= len(train)
    covariance[np.diag_indices_from(covariance)] += BIAS
    eigenvalues, vectors = np.linalg.eigh(covariance)
    return Whitening(mean, (vectors / np.sqrt(eigenvalues)) @ vectors.T, eigenvalues)


def whitened(whitening: Whitening, images: Images) -> Iterator[npt.NDArray[np.float32]]:
    """uint8 [N, H, W, C] -> float32 [H, W, C] of each."""
    for chunk in chunks(images):
        values = (normalize_contrast(chunk) - whitening.mean) @ whitening.matrix
        yield from values.astype("<f4").reshape(chunk.shape)


def spectrum(whitening: Whitening) -> dict[str, object]:
    """For the card: 256 eigenvalues from the largest to the smallest, evenly chosen with both ends, to 6 digits."""
    falling = whitening.eigenvalues[::-1]
    at = np.unique(np.linspace(0, len(falling) - 1, 256).round().astype(int))
    values = [float(f"{value:.6g}") for value in falling[at]]
    return {"dimensions": len(falling), "ranks": (at + 1).tolist(), "eigenvalues": values}


def chunks(images: Stored) -> Iterator[Any]:
    """As many of the images at a time as fit in memory in 64 bits a value."""
    for start in range(0, len(images), _CHUNK):
        yield images[start : start + _CHUNK]
