"""Real masks written in each tool's run lengths come back the same, pixel for pixel."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irrbench.convert import convert_coco, convert_cvat, convert_label_studio
from tests.convert import encoders

DATA = Path(os.environ.get("IRRBENCH_TEST_DATA", "nowhere")) / "bubil"
RATERS = ("p1", "p2", "p3", "p4", "p5")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="IRRBENCH_TEST_DATA holds no bubil")


def drawings(rater):
    """One person's masks by file name."""
    return {path.name: np.asarray(Image.open(path)) > 0 for path in sorted((DATA / "masks" / rater).glob("*.png"))}


def counts(mask, *, compressed):
    if not compressed:
        return encoders.runs(mask.T.ravel())
    tools = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    return tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def coco(root, *, compressed):
    files = {}
    for rater in RATERS:
        masks = list(drawings(rater).items())
        images = [encoders.coco_image(str(i), name, mask.shape) for i, (name, mask) in enumerate(masks)]
        images = [entry | {"height": float(mask.shape[0])} for entry, (_, mask) in zip(images, masks, strict=True)]
        notes = [
            encoders.coco_note(i, {"size": list(mask.shape), "counts": counts(mask, compressed=compressed)}, iscrowd=1)
            for i, (_, mask) in enumerate(masks)
        ]
        categories = [{"id": 1, "name": "cell"}]
        content = {"images": images, "annotations": notes, "categories": categories}
        files[rater] = encoders.write_json(root / f"{rater}.json", content)
    return convert_coco(files, root / "data", images=DATA / "images", progress=False)


def studio(root):
    by_image = {}
    for rater in RATERS:
        for name, mask in drawings(rater).items():
            region = encoders.studio_region(mask.shape, format="rle", rle=encoders.brush(mask))
            by_image.setdefault(name, []).append(encoders.studio_annotation({"email": rater}, region))
    tasks = [encoders.studio_task(f"/data/upload/1/0a1b2c3d-{name}", *each) for name, each in by_image.items()]
    file = encoders.write_json(root / "tasks.json", tasks)
    return convert_label_studio(file, root / "data", images=DATA / "images", progress=False)


def cvat(root):
    files = {}
    for rater in RATERS:
        images = [
            encoders.cvat_image(name, mask.shape, encoders.cvat_mask(mask)) for name, mask in drawings(rater).items()
        ]
        files[rater] = encoders.zipped(root / f"{rater}.zip", **{"annotations.xml": encoders.cvat_xml(*images)})
    return convert_cvat(files, root / "data", images=DATA / "images", progress=False)


FORMATS = {
    "coco": lambda root: coco(root, compressed=False),
    "compressed coco": lambda root: coco(root, compressed=True),
    "label studio": studio,
    "cvat": cvat,
}


@pytest.mark.parametrize("name", FORMATS)
def test_real_masks_come_back_the_same(name, tmp_path):
    done = FORMATS[name](tmp_path)
    assert (done.left_out, done.problems, tuple(done.drawn)) == ((), (), RATERS)
    for rater in RATERS:
        expected = drawings(rater)
        assert done.drawn[rater].drawings == len(expected)
        written = sorted(path.name for path in (done.root / "masks" / rater).iterdir())
        assert written == sorted(expected)
        for file in written:
            np.testing.assert_array_equal(
                np.asarray(Image.open(done.root / "masks" / rater / file)) > 0, expected[file]
            )
