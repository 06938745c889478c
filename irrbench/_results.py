"""Results that print as short tables, in a console and in a notebook, and give them as frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 10  # that are printed
_MOST_COLUMNS = 8  # of a single row that is printed as one
_NO_COLUMNS = ("samples", "foreground", "folds")  # of a value for each resample, pattern or fold


class Result(ABC):
    """What a function of this package returns: :meth:`to_frame` gives all of it, printing a short table.

    A dataclass of this kind needs ``repr=False``.
    """

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """The result as a table."""

    def summary_frame(self) -> pd.DataFrame:
        """What is printed of it."""
        return self.to_frame()

    @property
    def heading(self) -> str:
        """The line above what is printed."""
        return type(self).__name__

    def __repr__(self) -> str:
        """The heading and at most ten rows; a single row stands upright."""
        shown, more = self._shown()
        text = shown.iloc[0].to_string() if _is_upright(shown) else shown.to_string(index=False)
        return "\n".join(filter(None, [self.heading, text, more]))

    def _repr_html_(self) -> str:
        """The same for a notebook; every text in it is escaped."""
        shown, more = self._shown()
        body = shown.T.to_html(header=False) if _is_upright(shown) else shown.to_html(index=False)
        return "\n".join([f"<p>{escape(self.heading)}</p>", body, f"<p>{escape(more)}</p>" if more else ""])

    def _shown(self) -> tuple[pd.DataFrame, str]:
        """Texts of the first rows, without columns that say nothing, and how many rows are left."""
        frame = self.summary_frame()
        left = len(frame) - MOST_ROWS
        silent = [name for name in ("reason", "remark") if name in frame and not frame[name].astype(bool).any()]
        shown = frame.drop(columns=silent).head(MOST_ROWS).map(_text)
        return shown, f"and {left} more rows: see to_frame()" if left > 0 else ""


class ImagesResult(Result):
    """A dataclass whose fields have one value an image: ``(B,)`` tensors, ``(B, R)`` ones, and ``B`` strings."""

    def to_frame(self, image_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """One row an image; a value a rater is a column a rater, such as ``sensitivity_0``.

        Args:
            image_ids: ``B`` names; numbers from 0 on if not given.

        Raises:
            ValueError: if there is another number of names.
        """
        return image_rows(dict(columns_of(self)), image_ids)

    @property
    def heading(self) -> str:
        """Of what it is, and of how many images."""
        return f"{type(self).__name__} of {images_text(len(next(iter(dict(columns_of(self)).values()))))}"


class DataSetResult(Result):
    """A dataclass whose fields have one value for all images."""

    def to_frame(self) -> pd.DataFrame:
        """One row."""
        import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

        return pd.DataFrame([{name: _plain(value) for name, value in columns_of(self)}])


def image_rows(columns: Mapping[str, Any], image_ids: Sequence[object] | None) -> pd.DataFrame:
    """A table with the images' names, or numbers, in front.

    Raises:
        ValueError: if the names are not one for each row.
    """
    import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

    frame = pd.DataFrame({name: _plain(value) for name, value in columns.items()})
    if image_ids is not None:
        check_names(image_ids, len(frame))
    frame.insert(0, "image_id", list(range(len(frame)) if image_ids is None else image_ids))
    return frame


def images_text(number: int) -> str:
    """Say how many images.

    >>> images_text(1), images_text(2)
    ('1 image', '2 images')
    """
    return f"{number} image" + "s" * (number != 1)


def check_names(image_ids: Sequence[object], num_images: int) -> None:
    """Refuse names that are not one for each image.

    Raises:
        ValueError: saying how many there are.
    """
    if len(image_ids) != num_images:
        raise ValueError(f"`image_ids` must be {num_images} names, one an image; found {len(image_ids)}.")


def columns_of(result: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a dataclass that can be columns, by name; those of ``(B, R)`` are ``R`` of them."""
    for field in fields(result):
        value, name = getattr(result, field.name), prefix + field.name
        if field.name in _NO_COLUMNS:
            continue
        if isinstance(value, Tensor) and value.ndim == 2:
            yield from ((f"{name}_{r}", column) for r, column in enumerate(value.unbind(1)))
        elif isinstance(value, Mapping):
            yield from ((f"{name.removesuffix('s')}_{key}", inner) for key, inner in value.items())
        elif isinstance(value, Result):
            yield from ((key, inner) for key, inner in columns_of(value) if key == "icc")
        else:
            yield name, value


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item() if value.ndim == 0 else value.cpu().numpy()
    return list(value) if isinstance(value, tuple) else value


def _is_upright(shown: pd.DataFrame) -> bool:
    """Whether a single row is too long for a line."""
    return len(shown) == 1 and len(shown.columns) > _MOST_COLUMNS


def _text(value: object) -> str:
    """A cell: three digits of a fraction."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.4g}"
