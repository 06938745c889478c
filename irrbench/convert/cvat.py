"""CVAT's own export, "CVAT for images 1.1": XML, or the archive that holds it, of a task, a job or a project.

Source: CVAT documentation, "XML annotation format".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from irrbench.convert.exports import Export, Files, check_owner, list_exports, read_content, reading
from irrbench.convert.gather import Drawing, Gathering, Mark
from irrbench.convert.shapes import expand_runs, fill_ellipse, fill_polygon, fill_rectangle
from irrbench.convert.values import name_of, size_of, whole
from irrbench.convert.writing import Converted
from irrbench.data.readers import DataError, Mask, Problem, ReadError

EXPECTED = "an export in the format 'CVAT for images 1.1'"


def convert_cvat(
    exports: Files,
    output: str | Path,
    *,
    images: str | Path | None = None,
    labels: Sequence[str] = (),
    boxes: bool = False,
    anonymize: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Converted:
    """Convert exports of CVAT ("CVAT for images 1.1") into a data folder; each task or job is one rater's.

    All shapes of a task on one image make one mask: masks, polygons and ellipses, whichever lies on top. An image of a
    task without shapes was drawn, and is empty. Images of one name in several tasks are one image; a second task by the
    same person is a repeat (``masks/<rater>@2``).

    Args:
        exports: XML files, or archives with an ``annotations.xml``, drawn by the assignee that they name. A mapping
            gives each person's own file by name.
        output: the new data folder.
        images: the folder of the images; without one, black images of the declared sizes.
        labels: names of the labels that count; all by default.
        boxes: whether rectangles are filled; by default they are left out, for a box is no outline.
        anonymize: whether raters become r1, r2, ...; nothing that is written leads back to their names.
        overwrite: whether an earlier data folder at ``output`` is replaced.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: a file that cannot be read, unknown labels, or nothing to convert.
    """
    gathering = Gathering("CVAT", images, labels)
    for export in list_exports(exports):
        root = _read(export)
        names = [name_of(label.findtext("name")) for label in root.iterfind("meta//labels/label")]
        gathering.known += filter(None, names)
        people = _assignees(root, export)
        for image in root.iterfind("image"):
            label = f"{export.name}, image {image.get('name') or image.get('id')}"
            gathering.add(label, partial(_drawings, export, image, people, boxes=boxes))
    return gathering.write(output, anonymize=anonymize, overwrite=overwrite, progress=progress)


def _read(export: Export) -> Element:
    """The root element; a document type, where entities are declared, is refused, as CVAT writes none.

    Raises:
        DataError: a file that cannot be read, or of another format.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, _refuse_doctype
    with reading(export, EXPECTED):
        parser.Parse(read_content(export.path, "annotations.xml"), True)  # noqa: FBT003  # its own positional argument
        root = builder.close()
        _check_format(root)
    return root


def _refuse_doctype(*_: object) -> None:
    raise ReadError("XML with a document type", "plain XML, as CVAT writes it", "export again")


def _check_format(root: Element) -> None:
    if root.find("track") is not None:
        raise ReadError("tracks of a video", EXPECTED, "export in that format")
    if root.tag != "annotations" or root.find("image") is None:
        raise ReadError(f"<{root.tag[:40]}> without an <image>", EXPECTED, "export in that format")


def _assignees(root: Element, export: Export) -> dict[str | None, str]:
    """Who drew each task, by its id; under None, who drew everything.

    Raises:
        DataError: nobody is named, or several where the file is one person's.
    """
    works = [work for kind in ("task", "job") for work in root.iterfind(f"meta//{kind}")]
    people = {
        name_of(work.findtext("id")): name
        for work in works
        if (name := name_of(work.findtext("assignee/username")) or name_of(work.findtext("assignee")))
    }
    check_owner(export, people.values())
    if export.rater is not None:
        return {None: export.rater}
    if not people:
        remedy = "say whose it is: --from NAME=FILE"
        raise DataError([Problem(export.name, "no assignee of the task or job", "who drew it", remedy)])
    return people | ({None: next(iter(people.values()))} if len(works) == 1 else {})


def _drawings(export: Export, image: Element, people: dict[str | None, str], *, boxes: bool) -> Iterator[Drawing]:
    task, name = name_of(image.get("task_id")), image.get("name")
    rater = people.get(task) or people.get(None)
    if rater is None:
        remedy = "assign it, or export each task: --from NAME=FILE"
        raise ReadError(f"no assignee of task {task}", "who drew it", remedy)
    if not name:
        raise ReadError("no name", "one for each image", "export again")
    subset = image.get("subset")
    covariates = {} if subset is None else {"split": subset}
    size = size_of(image.get("height"), image.get("width"))
    yield Drawing(export.name, name, (name,), rater, tuple(_marks(image, boxes=boxes)), size, covariates)


def _marks(image: Element, *, boxes: bool) -> Iterator[Mark]:
    for number, shape in enumerate(image, start=1):
        kind = str(shape.tag)
        fill = None if kind == "box" and not boxes else _FILLS.get(kind)
        if kind not in ("tag", "attribute"):
            drawn = None if fill is None else partial(fill, shape)
            yield Mark((shape.get("label", ""),), kind, drawn, f"shape {number} ({kind})")


def _fill_polygon(polygon: Element, mask: Mask) -> None:
    pairs = _text(polygon, "points").split(";")
    fill_polygon([[float(value) for value in pair.split(",")] for pair in pairs], mask)


def _fill_mask(element: Element, mask: Mask) -> None:
    """Run lengths of a box, background first, row after row."""
    sides = [whole(element.get(key)) for key in ("left", "top", "width", "height")]
    left, top, width, height = (-1 if side is None else side for side in sides)
    if min(left, top, width, height) < 0 or top + height > mask.shape[0] or left + width > mask.shape[1]:
        raise ReadError("a mask that leaves the image", "left, top, width and height within it", "export again")
    runs = [int(run) for run in _text(element, "rle").split(",")]
    mask[top : top + height, left : left + width] |= expand_runs(runs, (width, height)).T


def _fill_box(box: Element, mask: Mask) -> None:
    left, top, right, bottom = (float(_text(box, key)) for key in ("xtl", "ytl", "xbr", "ybr"))
    fill_rectangle(left, top, right - left, bottom - top, mask, degrees=float(box.get("rotation", 0)))


def _fill_ellipse(ellipse: Element, mask: Mask) -> None:
    x, y, radius_x, radius_y = (float(_text(ellipse, key)) for key in ("cx", "cy", "rx", "ry"))
    fill_ellipse(x, y, radius_x, radius_y, mask, degrees=float(ellipse.get("rotation", 0)))


def _text(element: Element, key: str) -> str:
    value = element.get(key)
    if value is None:
        raise ReadError(f"no {key}", "the format as documented", "export again")
    return value


_FILLS: dict[str, Callable[[Element, Mask], None]] = {
    "polygon": _fill_polygon,
    "mask": _fill_mask,
    "box": _fill_box,
    "ellipse": _fill_ellipse,
}
