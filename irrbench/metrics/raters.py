"""Intraclass correlations and agreement coefficients of the raters as torchmetrics metrics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from irrbench._counting import digest_masks
from irrbench.agreement import Patterns, gwet_ac1, krippendorff_alpha, why_undefined
from irrbench.folds import pattern_bits
from irrbench.icc.area import area_icc_from_counts, block_counts
from irrbench.icc.extent import extent_icc
from irrbench.icc.pixel import Engine, Expect, Scale, pixel_icc
from irrbench.metrics.base import RaterPatternsMetric, RatersMetric, image_frame
from irrbench.metrics.state import ImageIds, Images, Rows, decode_blocks, encode_blocks
from irrbench.scores import check_choice

if TYPE_CHECKING:
    import pandas as pd


class PixelICC(RaterPatternsMetric):
    """Intraclass correlation at pixel level, averaged over images.

    A state around :func:`~irrbench.icc.pixel.pixel_icc`, for binary masks. ``per_image()`` gives a table of
    ``image_id``, ``n_raters``, ``roi_pixels``, ``icc`` (NaN also where the fit did not converge), ``var_pixel``,
    ``var_rater`` and ``reason``.

    Args:
        engine: see :func:`~irrbench.icc.pixel.pixel_icc`.
        expect: see there.
        scale: see there.
        validate_args: whether to check the masks' values at every batch (first batch only, on an accelerator).
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        ValueError: if an option has no such value.

    Example:
        >>> metric = PixelICC()
        >>> metric.update(torch.tensor([[[0, 1, 0, 0, 0, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]]))
        >>> metric.compute()
        tensor(0.3063, dtype=torch.float64)
    """

    column = "icc"
    takes_classes = False

    def __init__(
        self,
        *,
        engine: Engine = "laplace",
        expect: Expect = "meanobs",
        scale: Scale = "link",
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(validate_args=validate_args, **kwargs)
        for name, value, allowed in (("engine", engine, Engine), ("expect", expect, Expect), ("scale", scale, Scale)):
            check_choice(name, value, allowed)
        self.engine, self.expect, self.scale = engine, expect, scale

    def _columns(self, images: Images) -> dict[str, object]:
        fit = pixel_icc(images.classes[0], engine=self.engine, expect=self.expect, scale=self.scale)
        icc = fit.icc.masked_fill(~fit.converged, torch.nan)
        return {
            "icc": icc.numpy(),
            "var_pixel": fit.var_pixel.numpy(),
            "var_rater": fit.var_rater.numpy(),
            "reason": fit.reason,
        }


class AreaICC(RatersMetric):
    """Intraclass correlation over blocks of the image, averaged over images.

    A state around :func:`~irrbench.icc.area.area_icc_from_counts`, for binary masks: marks and pixels by block.
    ``per_image()`` gives a table of ``image_id``, ``n_raters``, ``roi_pixels``, ``icc`` (NaN also where the fit did not
    converge), ``var_block``, ``var_rater``, ``var_over`` and ``reason``.

    Args:
        cells: blocks per axis, see :func:`~irrbench.icc.area.block_counts`.
        expect: see :func:`~irrbench.icc.area.area_icc`.
        validate_args: whether to check the masks' values at every batch (first batch only, on an accelerator).
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        ValueError: if an option has no such value.

    Example:
        >>> place = torch.arange(60)
        >>> disc = lambda x, r: ((place[:, None] - 30) ** 2 + (place - x) ** 2 < r**2)
        >>> metric = AreaICC()
        >>> metric.update(torch.stack([disc(28, 15), disc(31, 17), disc(30, 14)])[None])
        >>> metric.compute()
        tensor(0.9797, dtype=torch.float64)
    """

    column = "icc"

    def __init__(
        self, *, cells: int = 10, expect: Expect = "meanobs", validate_args: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(validate_args=validate_args, **kwargs)
        if cells < 2:
            raise ValueError(f"`cells` must be 2 or more (blocks per axis), found {cells}.")
        check_choice("expect", expect, Expect)
        self.cells, self.expect = cells, expect

    def _encode(self, masks: Tensor, roi: Tensor | None, image_id: ImageIds | None, present: Tensor) -> Rows:
        blocks = block_counts(masks, roi=roi, cells=self.cells, validate=self._validates(masks))
        return encode_blocks(blocks, present, image_id=image_id, digest=digest_masks(masks, present, roi))

    def _tables(self) -> Iterator[pd.DataFrame]:
        for image_ids, counts, present in decode_blocks(self._rows()):
            fit = area_icc_from_counts(*counts, expect=self.expect, present=present)
            columns = {
                "icc": fit.icc.masked_fill(~fit.converged, torch.nan).numpy(),
                "var_block": fit.var_block.numpy(),
                "var_rater": fit.var_rater.numpy(),
                "var_over": fit.var_over.numpy(),
                "reason": fit.reason,
            }
            yield image_frame(image_ids, present, counts.total.sum(1), columns)


class ExtentICC(RaterPatternsMetric):
    """Intraclass correlation of how much of each image is marked, one number for all images.

    A state around :func:`~irrbench.icc.extent.extent_icc`, for binary masks. ``per_image()`` gives a table of
    ``image_id``, ``n_raters``, ``roi_pixels`` and the pixels that each rater marked, ``marked_0``, ... (NaN where
    absent): what :func:`~irrbench.icc.extent.extent_icc` and its interval take.

    Args:
        validate_args: whether to check the masks' values at every batch (first batch only, on an accelerator).
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> masks = torch.arange(20) < torch.tensor([[[3], [4]], [[15], [14]], [[9], [12]]])  # (B, R, *S)
        >>> metric = ExtentICC()
        >>> metric.update(masks)
        >>> metric.compute()
        tensor(0.9460, dtype=torch.float64)
    """

    takes_classes = False

    def compute(self) -> Tensor:
        """The ICC of the images of all processes; a float64 scalar, NaN where undefined.

        Raises:
            ValueError: if the number of raters changes, or an id comes again with other masks.
        """
        table = self._table_if_any()
        if table is None:
            return torch.tensor(torch.nan, dtype=torch.float64)
        marked = table.filter(regex=r"^marked_\d+$").to_numpy()
        return extent_icc(marked, table["roi_pixels"].to_numpy()).icc

    def _columns(self, images: Images) -> dict[str, object]:
        patterns = images.classes[0]
        marked = patterns.totals.double() @ pattern_bits(patterns.num_raters).double()
        marked = marked.masked_fill(~patterns.present, torch.nan)
        return {f"marked_{r}": rater.numpy() for r, rater in enumerate(marked.unbind(1))}


class _AgreementMetric(RaterPatternsMetric):
    """An agreement coefficient of the raters, and the reason where it is NaN."""

    plot_lower_bound = -1.0

    @abstractmethod
    def _coefficient(self, votes: Patterns) -> Tensor:
        """The coefficient of each image, ``(B,)``."""

    def _columns(self, images: Images) -> dict[str, object]:
        # Label maps have one set of patterns a class.
        votes = images.classes[0] if len(images.classes) == 1 else images.classes
        values = self._coefficient(votes)
        return {self.column: values.numpy(), "reason": why_undefined(values, votes)}


class KrippendorffAlpha(_AgreementMetric):
    """Krippendorff's alpha of the raters (nominal), averaged over images.

    A state around :func:`~irrbench.agreement.krippendorff_alpha`. ``per_image()`` gives a table of ``image_id``,
    ``n_raters``, ``roi_pixels``, ``alpha`` and ``reason`` (why an alpha is NaN, or empty).

    Args:
        num_classes: for label maps: number of classes, background included; None for binary masks.
        validate_args: whether to check the masks' values at every batch (first batch only, on an accelerator).
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> metric = KrippendorffAlpha()
        >>> metric.update(torch.tensor([[[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]]))
        >>> metric.compute()
        tensor(0.0952, dtype=torch.float64)
    """

    column = "alpha"

    def _coefficient(self, votes: Patterns) -> Tensor:
        return krippendorff_alpha(votes)


class GwetAC1(_AgreementMetric):
    """Gwet's AC1 of the raters, averaged over images.

    A state around :func:`~irrbench.agreement.gwet_ac1`. ``per_image()`` gives a table of ``image_id``, ``n_raters``,
    ``roi_pixels``, ``ac1`` and ``reason`` (why an AC1 is NaN, or empty).

    Args:
        num_classes: for label maps: number of classes, background included; None for binary masks.
        validate_args: whether to check the masks' values at every batch (first batch only, on an accelerator).
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> metric = GwetAC1()
        >>> metric.update(torch.tensor([[[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]]))
        >>> metric.compute()
        tensor(0.3103, dtype=torch.float64)
    """

    column = "ac1"

    def _coefficient(self, votes: Patterns) -> Tensor:
        return gwet_ac1(votes)
