"""Finished predictions as they are named on the command line."""

from __future__ import annotations

import re

import pytest

from irrbench.commands.loading import parse_predictions
from irrbench.config import ConfigError


@pytest.mark.parametrize(
    ("pair", "problem"),
    [
        ("unet=", "found 'unet='"),
        ("=folder", "found '=folder'"),
        (" = ", "found ' = '"),
        ("", "found ''"),
        ("missing", "there is no folder 'missing'"),
        ("a/file", "there is no folder 'a/file'"),
    ],
)
def test_predictions_that_are_no_folder_and_have_no_name(pair, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("no folder")
    expected = "NAME=DIR, such as unet=outputs/unet, or a folder that holds a folder for each model"
    with pytest.raises(ConfigError, match=f"^--predictions must be {re.escape(f'{expected}; {problem}.')}$"):
        parse_predictions([pair])


def test_predictions_of_one_name():
    with pytest.raises(ConfigError, match="names 'a' twice"):
        parse_predictions(["a=x", "a=y"])
