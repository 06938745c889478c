"""What an image file declares, checked before anything of that size is allocated."""

from __future__ import annotations

import math
from typing import NamedTuple

from irrbench.data.problems import ReadError

MAX_PIXELS = 2**28


class Header(NamedTuple):
    """Spatial shape and channels of an image, known without decoding it."""

    shape: tuple[int, ...]
    channels: int


def absurd_size(found: str) -> ReadError:
    """What is raised where a file declares more pixels than the limit."""
    return ReadError(found, f"at most {MAX_PIXELS:,} pixels", "crop or tile the image")


def check_size(shape: tuple[int, ...]) -> None:
    """Refuse shapes over the limit, without pixels, or of one axis."""
    size = " x ".join(map(str, shape))
    if math.prod(shape) > MAX_PIXELS:
        raise absurd_size(f"an absurd declared size of {size}")
    if math.prod(shape) == 0 or len(shape) < 2:
        raise ReadError(f"a declared size of {size or 'nothing'}", "two or three axes of pixels", "export it again")
