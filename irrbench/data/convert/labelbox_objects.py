"""One Labelbox label, a list of polygons, masks and boxes, as a mask."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from irrbench.data.convert.shapes import fill_box, fill_polygon
from irrbench.data.files import LOSSY, extension, read_colours, read_mask
from irrbench.data.problems import ReadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irrbench.data.convert.fetching import Store

Object = Mapping[str, Any]


class Ignored:
    """Counts objects that are no outlines, by their kind; from several threads."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, kind: str) -> None:
        """One more object of this kind."""
        with self._lock:
            self._counts[kind] += 1

    def __iter__(self) -> Iterator[str]:
        for kind, count in sorted(self._counts.items()):
            yield f"{count} objects of kind {kind} left out: they outline nothing"


class ObjectRules(NamedTuple):
    """Which objects count, where mask files are, whether boxes are filled, and what was ignored."""

    names: frozenset[str]
    masks: Store | None
    boxes: bool
    ignored: Ignored


def draw_objects(objects: Sequence[Object], shape: tuple[int, int], rules: ObjectRules) -> NDArray[np.bool_]:
    """All objects that count, in one mask ``(H, W)``.

    Raises:
        ReadError: an outline or a mask file that cannot be used.
    """
    mask = np.zeros(shape, bool)
    for item in objects:
        if rules.names and not rules.names & {str(item.get("name")), str(item.get("value"))}:
            continue
        drawn = _draw(item, shape, rules)
        if drawn is None:
            rules.ignored.add(str(item.get("annotation_kind", "unknown")))
        else:
            mask |= drawn
    return mask


def _draw(item: Object, shape: tuple[int, int], rules: ObjectRules) -> NDArray[np.bool_] | None:
    try:
        if "polygon" in item:
            return fill_polygon([[point["x"], point["y"]] for point in item["polygon"]], shape)
        if "composite_mask" in item or "mask" in item:
            return _draw_mask(item, shape, rules.masks)
        if "bounding_box" in item and rules.boxes:
            return fill_box(item["bounding_box"], shape)
    except (KeyError, TypeError, ValueError) as error:
        kind = item.get("annotation_kind", "object")
        raise ReadError(f"a damaged {kind} ({error!r})", "Labelbox's export format", "export again") from error
    return None


def _draw_mask(item: Object, shape: tuple[int, int], store: Store | None) -> NDArray[np.bool_]:
    if store is None:
        raise ReadError("an object drawn as a mask, and no folder of masks", "mask files", "give --masks DIR")
    whole = item.get("mask")
    if whole is None:
        return _pick_colour(item["composite_mask"], shape, store)
    try:
        path = store.get([str(item["feature_id"])], str(whole["url"]))
    except ReadError:
        if "composite_mask" not in item:
            raise
        return _pick_colour(item["composite_mask"], shape, store)
    return _checked(_read_single(path), shape, path.name)


def _read_single(path: Path) -> NDArray[np.bool_]:
    """One object's mask: what is neither black nor transparent, of one colour."""
    colours = read_colours(path)
    if colours.ndim == 2 or extension(path.name) in LOSSY:
        return read_mask(path)
    marked = _opaque(colours) & colours[..., :3].any(-1)
    if len(np.unique(colours[marked], axis=0)) > 1:
        raise ReadError(f"{path.name} of several colours", "a mask in one colour on black", "export again")
    return marked


def _opaque(colours: NDArray[Any]) -> NDArray[np.bool_]:
    has_alpha = colours.shape[-1] in (2, 4)
    return colours[..., -1] > 0 if has_alpha else np.ones(colours.shape[:-1], bool)


def _pick_colour(composite: Object, shape: tuple[int, int], store: Store) -> NDArray[np.bool_]:
    """One object's colour out of the picture that holds all objects of its label."""
    url = str(composite["url"])
    path = store.get([_composite_id(url)], url)
    colours = read_colours(path)
    if colours.ndim != 3 or colours.shape[-1] < 3:
        raise ReadError(f"{path.name} without colours", "a composite mask in RGB", "download it again")
    wanted = np.array([int(value) for value in composite["color_rgb"]])
    if wanted.shape != (3,):
        raise ReadError(f"{len(wanted)} values of color_rgb", "three", "export again")
    return _checked(_opaque(colours) & (colours[..., :3] == wanted).all(-1), shape, path.name)


def _composite_id(url: str) -> str:
    """The composite mask's id: in ``.../masks/{id}/index/1`` what follows ``masks``, else the file's name."""
    parts = [part for part in urlsplit(url).path.split("/") if part]
    if "masks" in parts[:-1]:
        return parts[parts.index("masks") + 1]
    return parts[-1] if parts else ""


def _checked(mask: NDArray[np.bool_], shape: tuple[int, int], name: str) -> NDArray[np.bool_]:
    if mask.shape != shape:
        sizes = [" x ".join(map(str, size)) for size in (mask.shape, shape)]
        raise ReadError(f"{name} of size {sizes[0]}", f"{sizes[1]}, the size of its image", "export again")
    return mask
