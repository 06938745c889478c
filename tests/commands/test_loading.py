"""Finished predictions as they are named on the command line."""

from __future__ import annotations

import pytest

from irrbench.commands.loading import parse_predictions
from irrbench.config import ConfigError


@pytest.mark.parametrize("pair", ["unet", "unet=", "=folder", " = "])
def test_malformed_predictions(pair):
    with pytest.raises(ConfigError, match=r"--predictions must be NAME=DIR, such as unet=outputs/unet; found"):
        parse_predictions([pair])


def test_predictions_of_one_name():
    with pytest.raises(ConfigError, match="names 'a' twice"):
        parse_predictions(["a=x", "a=y"])
