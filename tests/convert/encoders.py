"""Masks as annotation tools export them: run lengths of COCO and CVAT, and Label Studio's packed runs."""

from __future__ import annotations

import json
import zipfile
from itertools import groupby

import numpy as np

from irrbench.convert import shapes

LABEL_STUDIO_WIDTHS = (3, 4, 8, 16)


def _filling(fill):
    def filled(*place, **options):
        mask = np.zeros(place[-1], bool)
        fill(*place[:-1], mask, **options)
        return mask

    return filled


# What marks a mask, as a function of its size that returns it.
fill_polygon, fill_ellipse, fill_rectangle, fill_box = map(
    _filling, (shapes.fill_polygon, shapes.fill_ellipse, shapes.fill_rectangle, shapes.fill_box)
)


def runs(flat):
    """Run lengths of a flat mask, background first."""
    lengths = [(bool(value), len(list(same))) for value, same in groupby(np.asarray(flat, bool).tolist())]
    return [0] * bool(lengths and lengths[0][0]) + [length for _, length in lengths]


def pack(values, *, word=8, widths=LABEL_STUDIO_WIDTHS, literal=False):
    """Label Studio's RLE of a flat array, each run in the narrowest width; ``literal`` repeats nothing."""
    bits = f"{len(values):032b}{word - 1:05b}" + "".join(f"{width - 1:04b}" for width in widths)

    def block(numbers, repeats, length):
        size = next(i for i, width in enumerate(widths) if length <= 2**width)
        head = f"{int(repeats)}{size:02b}{length - 1:0{widths[size]}b}"
        return head + "".join(f"{number:0{word}b}" for number in numbers)

    longest = 2 ** max(widths)
    if literal:
        for start in range(0, len(values), longest):
            part = list(values[start : start + longest])
            bits += block(part, False, len(part))
    else:
        for value, same in groupby(list(values)):
            left = len(list(same))
            while left:
                bits += block([value], True, min(left, longest))
                left -= min(left, longest)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def brush(mask, **options):
    """A mask as Label Studio's brush: four channels, the last one is opacity."""
    return pack(np.repeat(np.asarray(mask, np.uint8).ravel() * 255, 4), **options)


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco_image(number, name, shape, **fields):
    return {"id": number, "file_name": name, "height": shape[0], "width": shape[1]} | fields


def coco_note(image, segmentation, **fields):
    return {"id": 7, "image_id": image, "category_id": 1, "iscrowd": 0, "segmentation": segmentation} | fields


def studio_region(shape, kind="brush", label="lesion", **value):
    """One result of Label Studio; ``value`` is what its kind needs."""
    return {
        "id": f"r{len(value)}{label}",
        "type": f"{kind}labels",
        "from_name": "tag",
        "to_name": "image",
        "original_width": shape[1],
        "original_height": shape[0],
        "image_rotation": 0,
        "value": value | {f"{kind}labels": [label]},
    }


def studio_annotation(who, *regions, **fields):
    return {"id": 1, "completed_by": who, "result": list(regions), "was_cancelled": False} | fields


def studio_task(image, *annotations, **fields):
    return {"id": 1, "data": {"image": image}, "annotations": list(annotations), "predictions": []} | fields


def cvat_xml(*images, meta="<job><id>3</id><assignee/></job>"):
    head = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta>{meta}</meta>'
    return head + "\n".join(images) + "</annotations>"


def cvat_image(name, shape, *shapes, **fields):
    extra = "".join(f' {key}="{value}"' for key, value in fields.items())
    return f'<image id="0" name="{name}" width="{shape[1]}" height="{shape[0]}"{extra}>{"".join(shapes)}</image>'


def cvat_shape(kind, label="lesion", **fields):
    text = "".join(f' {key}="{value}"' for key, value in fields.items())
    return f'<{kind} label="{label}" source="manual" occluded="0"{text} z_order="0"></{kind}>'


def cvat_mask(mask, label="lesion"):
    """A mask as CVAT writes it: run lengths of the box around it, row after row; nothing where it marks nothing."""
    if not mask.any():
        return ""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = rows[0], columns[0]
    box = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    place = {"left": left, "top": top, "width": box.shape[1], "height": box.shape[0]}
    return cvat_shape("mask", label, rle=", ".join(map(str, runs(box.ravel()))), **place)


def zipped(path, **files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path
