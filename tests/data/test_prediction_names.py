"""Predictions whose files are named nearly as the images, or lie in another place: one line."""

from __future__ import annotations

import re

import numpy as np
import pytest

from irrbench.data import DataError, RaterData, load_predictions
from irrbench.data.problems import summarize_problems
from tests.data.toys import save

IDS = [f"case_{number:03d}" for number in range(1, 13)]
MASKS = np.random.default_rng(0).random((12, 3, 6, 5)) < 0.4


@pytest.fixture(scope="module")
def data():
    return RaterData.from_arrays([np.zeros((1, 6, 5))] * 12, list(MASKS), image_ids=IDS)


def lines(folder, data, name):
    for image_id in IDS:
        save(folder / name(image_id), np.zeros((6, 5), np.uint8))
    with pytest.raises(DataError) as caught:
        load_predictions(folder, data, progress=False)
    return len(caught.value.problems), summarize_problems(caught.value.problems)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            lambda i: f"{i}_pred.png",
            "case_001_pred.png: found suffix '_pred' behind the image's id; expected .*case_001.png",
        ),
        (lambda i: f"unet-{i}.png", "'unet-' in front of the image's id"),
        (lambda i: f"{i.upper()}.png", "another spelling .* than in the image's id"),
        (lambda i: f"case_{int(i[5:])}.png", "another spelling .* than in the image's id"),
        (
            lambda i: f"scan{97 * int(i[5:])}.png",
            "found a prediction for an unknown image; expected the ids",
        ),
    ],
)
def test_names_that_differ_alike_are_one_line(tmp_path, data, name, message):
    number, found = lines(tmp_path / "net", data, name)
    assert number == 12
    assert len(found) == 1
    assert re.search(rf"12 times: .*{message}", found[0])


def test_what_lacks_is_one_line_beside_what_is_unknown(tmp_path, data):
    def name(image_id):
        return f"{image_id}.png" if image_id < "case_008" else f"zz{97 * int(image_id[5:])}.png"

    number, (unknown, lacking) = lines(tmp_path / "net", data, name)
    assert number == 10
    assert re.search("5 times: .* found a prediction for an unknown image", unknown)
    assert re.search("5 times: .* found no file .* has none for 5 of 12 images", lacking)


def test_a_folder_of_folders_is_one_line(tmp_path, data):
    _, (line,) = lines(tmp_path / "net", data, lambda i: f"fold{int(i[5:]) % 2}/{i}.png")
    assert "net: found folders (fold0, fold1) in place of files; expected files <id>.*. Remedy: give the folder" in line
