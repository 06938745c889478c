"""The axes of a grid: models x labels x losses x noise x seeds, the names of its cells, and what is none of an axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import cycle, product
from typing import Any

from irrbench.config import BenchmarkConfig, ConfigError
from irrbench.data.dataset import parse_label
from irrbench.grid_config import LossConfig, ModelConfig, NoiseConfig
from irrbench.plots import MODEL_COLOURS
from irrbench.training.batches import Transforms
from irrbench.training.label_noise import CellNoise, noise_name
from irrbench.training.losses import ANNOTATORS, check_loss
from irrbench.training.models import check_model, trains_itself
from irrbench.training.noise import OWN, check_noise
from irrbench.training.results import Axes, group_name, recipe_name


def noise_axis(config: BenchmarkConfig, label: str) -> list[tuple[str, CellNoise | None]]:
    """The noise of each cell of a label strategy with its name, first none where any is asked for at dose 0.

    Example:
        >>> from irrbench.config import NoiseConfig
        >>> config = BenchmarkConfig(noise=[NoiseConfig("grow", [0, 1]), NoiseConfig("shift", [0, 2], labels=["soft"])])
        >>> [(name, noise and noise.dose) for name, noise in noise_axis(config, "soft")]
        [('', None), ('grow', 1.0), ('shift', 2.0)]
    """
    kinds = [each for each in config.noise if each.spoils(label)]
    noisy = [(each.label, CellNoise.of(each, dose)) for each in kinds for dose in each.doses if dose > 0]
    has_clean = not kinds or any(0 in each.doses for each in kinds)
    return [*([("", None)] if has_clean else []), *noisy]


def grid_rows(config: BenchmarkConfig) -> Iterator[tuple[str, Axes, ModelConfig, LossConfig | None, CellNoise | None]]:
    """Name, axes, model, loss and noise of each cell, by model."""
    losses: list[LossConfig | None] = [*config.losses] or [None]
    recipes = product(config.models, config.labels, losses)
    rows = ((*recipe, *noise) for recipe in recipes for noise in noise_axis(config, recipe[1]))
    for (model, label, loss, kind, noise), seed in product(rows, config.seeds):
        axes: dict[str, Any] = {"model": model.label, "label": label}
        axes |= {} if loss is None else {"loss": loss.label}
        axes |= {} if noise is None else {"noise": kind, "dose": noise.dose}
        axes |= {"seed": seed}
        name = group_name(axes) + (f" seed {seed}" if len(config.seeds) > 1 else "")
        yield name, axes, model, loss, noise


def cell_names(config: BenchmarkConfig) -> list[tuple[str, Axes]]:
    """Name and axes of each cell, by model; the name has the seed where there are several.

    Raises:
        ConfigError: if the grid is empty or holds two cells of one name.

    Example:
        >>> cell_names(BenchmarkConfig(labels=["soft"], seeds=[0, 1]))[0]
        ('unet-resnet18 soft seed 0', {'model': 'unet-resnet18', 'label': 'soft', 'seed': 0})
    """
    rows = [(name, axes) for name, axes, *_ in grid_rows(config)]
    names = [name for name, _ in rows]
    double = sorted({name for name in names if names.count(name) > 1})
    if double or not rows:
        found = f"two cells called {double[0]!r}" if double else "none"
        raise ConfigError(
            "models x labels x losses x noise x seeds must give at least one cell and each its own name; found "
            f"{found}. Name the models, losses and noise (`name:`), and list each label and seed once."
        )
    return rows


def cell_colours(config: BenchmarkConfig) -> dict[str, str]:
    """Colours of the cells by name, in MLflow and in the report; cells of one recipe share one."""
    recipes = {name: recipe_name(axes) for name, axes in cell_names(config)}
    palette = dict(zip(dict.fromkeys(recipes.values()), cycle(MODEL_COLOURS)))
    return {name: palette[recipe] for name, recipe in recipes.items()}


def check_grid(config: BenchmarkConfig, raters: Sequence[str] | None = None) -> None:
    """Refuse models, labels, losses and transforms that do not exist, without making any.

    Args:
        config: of the grid.
        raters: their names; names in ``rater:<name>`` are not checked if not given.

    Raises:
        ConfigError: with the key and the nearest names.
    """
    key = ""
    try:
        for number, model in enumerate(config.models):
            key = f"models[{number}]: "
            check_model(model.architecture, model.encoder, model.class_path, model.init_args)
        key = "train.loss: "
        check_loss(config.train.loss, labels=[] if config.losses else config.labels)
        for number, loss in enumerate(config.losses):
            key = f"losses[{number}]: "
            check_loss(loss.loss, class_path=loss.class_path, init_args=loss.init_args, labels=config.labels)
        for number, noise in enumerate(config.noise):
            key = f"noise[{number}]: "
            _check_noise_keys(noise, config.labels)
            check_noise(noise_name(noise), class_path=noise.class_path, init_args=noise.init_args)
        key = "labels: "
        for label in config.labels:
            parse_label(label, [label.partition(":")[2]] if raters is None else raters)
    except ValueError as error:
        raise ConfigError(f"{key}{error}") from error
    cell_names(config)
    _check_own_training(config)
    Transforms(config.train.transforms)


def noise_notes(config: BenchmarkConfig) -> list[str]:
    """What noise cannot spoil: the masks that a module gets which trains itself."""
    own: list[str] = []
    with suppress(ValueError):  # a class that is not there is refused elsewhere
        own = _own_trainings(config) if config.noise else []
    return [f"{name} is a LightningModule: noise spoils batch['label'], and batch['masks'] stay clean." for name in own]


def _own_trainings(config: BenchmarkConfig) -> list[str]:
    paths = ((model.label, model.class_path) for model in config.models)
    return [name for name, path in paths if path is not None and trains_itself(path)]


def _check_noise_keys(noise: NoiseConfig, labels: Sequence[str]) -> None:
    unknown = [label for label in noise.labels or () if label not in labels]
    if unknown or noise.labels == []:
        found = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"labels must be among those of the grid, {', '.join(labels)}; found {found}.")
    if noise.class_path is not None and noise.model not in (NoiseConfig.model, OWN):
        raise ValueError(f"give a model or a class_path; found both, {noise.model} and {noise.class_path}.")


def _check_own_training(config: BenchmarkConfig) -> None:
    """Refuse losses, and labels of several annotators, for models that train themselves and would ignore them."""
    own = _own_trainings(config)
    asked = ["losses"] * bool(config.losses) + [f"labels: {ANNOTATORS}"] * (ANNOTATORS in config.labels)
    if own and asked:
        raise ConfigError(
            f"{' and '.join(asked)}: {', '.join(own)} is a LightningModule, which has a loss of its own and would "
            "ignore that. Give its network as a torch.nn.Module, or leave them out."
        )
