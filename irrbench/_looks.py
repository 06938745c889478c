"""The colours of models and the colours and names of bounds, which a logger needs without what draws figures."""

from __future__ import annotations

# Twelve colours searched for the largest smallest distance in OKLab, seen normally and with protanopia, deuteranopia
# and tritanopia, at a contrast of 2.5 or more on white and on a dark page, away from grey; the most distinct first.
MODEL_COLOURS: tuple[str, ...] = (
    "#007896", "#C30F1E", "#B487FF", "#5AB469", "#783CB4", "#F069C3",
    "#C3693C", "#964B69", "#2D691E", "#5A78FF", "#C39600", "#B45AC3",
)  # fmt: skip
ROLE_COLOURS: dict[str, str] = {
    "ceiling": "#000000",
    "floor": "#888888",
    "majority": "#5A5A5A",
    "upper": "#9AA0A6",
    "blind": "#A0673C",
}
DISPLAY_NAMES: dict[str, str] = {
    "ceiling": "average rater (ceiling)",
    "floor": "naive rater (floor)",
    "ceiling_of_two": "one rater on one other",
    "majority": "majority of raters",
    "upper": "best possible (upper)",
    "blank": "blank mask",
    "blind": "best blind guess (blind)",
}
