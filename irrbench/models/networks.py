"""Networks by name, out of segmentation-models-pytorch, or by the import path of their class."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from irrbench.models.classes import nearest


def create_network(
    architecture: str, encoder: str, *, in_channels: int, encoder_weights: str | None = None, **options: Any
) -> nn.Module:
    """A network for one class.

    Args:
        architecture: name in segmentation-models-pytorch, such as ``unet``.
        encoder: name of its encoder, such as ``resnet18``, or ``tu-<name>`` for one of timm.
        in_channels: channels of the images.
        encoder_weights: pretrained weights to download; none by default.
        options: further arguments of the architecture, such as ``decoder_channels``.

    Raises:
        ValueError: if there is no such architecture, encoder or combination, with the closest names.
    """
    import segmentation_models_pytorch as smp  # noqa: PLC0415 (seconds)

    check_network(architecture, encoder, options)
    try:
        network: nn.Module = smp.create_model(
            architecture,
            encoder_name=encoder,
            encoder_weights=encoder_weights,
            in_channels=in_channels,
            classes=1,
            **options,
        )
    except (KeyError, ValueError, RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"segmentation-models-pytorch cannot make {architecture!r} with encoder {encoder!r}, "
            f"encoder_weights={encoder_weights!r} and {in_channels} channels: {error}. Choose another combination."
        ) from error
    return network


def check_network(architecture: str, encoder: str, options: Iterable[str] = ()) -> None:
    """Refuse unknown names without making the network.

    Args:
        architecture: name in segmentation-models-pytorch.
        encoder: name of its encoder.
        options: names of further arguments.

    Raises:
        ValueError: with the closest names.
    """
    import segmentation_models_pytorch as smp  # noqa: PLC0415 (seconds)

    _check_name("architecture", architecture, sorted(smp.MODEL_ARCHITECTURES_MAPPING))
    if encoder.startswith("tu-"):
        import timm  # noqa: PLC0415 (comes with segmentation-models-pytorch)

        _check_name("encoder", encoder.partition(".")[0], [f"tu-{name}" for name in timm.list_models()])
        return  # which takes further arguments of its own
    _check_name("encoder", encoder, smp.encoders.get_encoder_names())
    taken = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[architecture.lower()]).parameters.values()
    known = [parameter.name for parameter in taken if parameter.kind is not parameter.VAR_KEYWORD]
    for name in options:
        # What it does not know it leaves to timm, and else ignores.
        if name not in known:
            raise ValueError(f"init_args of {architecture}: unknown argument {name!r}. {nearest(name, known)}")


def _check_name(kind: str, name: str, known: Sequence[str]) -> None:
    if name in known or (kind == "architecture" and name.lower() in known):
        return
    close = difflib.get_close_matches(name.lower(), known, n=4, cutoff=0.4)
    shown = f"did you mean {', '.join(close)}?" if close else f"known are {', '.join(known[:12])}, ..."
    raise ValueError(f"There is no {kind} {name!r} among the {len(known)} of segmentation-models-pytorch: {shown}")
