"""A benchmark of finished predictions of thin things, by scores of lesions and centrelines."""

from __future__ import annotations

import io
import re
from base64 import b64decode

import numpy as np
import pandas as pd
from PIL import Image

from irrbench.commands.main import main
from irrbench.plots.panels import AREA_COLOURS


def test_finished_predictions(store, tmp_path):
    """A model that draws too thick wins by centreline Dice, one with gaps by IoU; pictures show areas."""
    rng = np.random.default_rng(0)
    for i in range(8):
        line = np.zeros((64, 64), bool)
        line[12::20, 3:60] = True
        line[12:53, 12::25] = True
        gaps = line.copy()
        for column in range(3, 60, 4):
            gaps[12::20, column] = False
        thick = line | np.roll(line, 1, 0) | np.roll(line, -1, 0)
        drawn = {f"masks/r{r}": np.roll(line, rng.integers(0, 2), 0) for r in range(3)}
        drawn |= {"masks/r3": line, "preds/gaps": gaps, "preds/thick": thick}
        for folder, mask in (drawn | {"images": line}).items():
            place = tmp_path / folder / f"i{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(place)
    flags = ["--data", str(tmp_path), "--predictions", str(tmp_path / "preds"), "--output", str(tmp_path / "out")]
    flags += [
        "--scores",
        "[cldice, iou, lesion_f1]",
        "--rules.lesion_iou",
        "0.25",
        "--tracking_uri",
        store,
        "--statistics.resamples",
        "200",
    ]
    assert main(["benchmark", *flags]) == 0
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("name")
    assert board.loc["thick", "cldice"] > board.loc["gaps", "cldice"]
    assert board.loc["thick", "iou"] < board.loc["gaps", "iou"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Centreline Dice" in page
    assert "Lesion F1 at IoU 0.25" in page
    shown = [Image.open(io.BytesIO(b64decode(data))) for data in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    colour = tuple(bytes.fromhex(AREA_COLOURS["both"][1:]))
    are_areas = [colour in {found for _, found in picture.convert("RGB").getcolors(2**20)} for picture in shown]
    assert sum(are_areas) >= 8
    assert 2 * sum(are_areas) == len(shown)  # over the image of each
