# %% [markdown]
# # Between floor and ceiling
#
# What a score of a segmentation is worth when people disagree: on lesions that we draw ourselves, so that we know
# the truth.

# %%
import matplotlib.pyplot as plt
import torch

from irrbench import SegmentationBounds, VotePatterns, segmentation_bounds
from irrbench.simulate import draw_lesions

# %% [markdown]
# ## Three people draw the same lesions
#
# Each person's outline is the true one, displaced by about one pixel: inward here, outward there.

# %%
people = 3
lesions = draw_lesions(
    40,
    sensitivity=[1.0] * people,
    specificity=[1.0] * people,
    edge=1.0,
    prevalence=0.08,
    smoothness=8,
)
masks, truth = lesions.masks, lesions.truth
masks.shape  # images, raters, height, width

# %%
figure, panels = plt.subplots(1, 4, figsize=(11, 3))
for panel, image in zip(panels, range(4), strict=True):
    panel.imshow(truth[image], cmap="gray_r", vmax=4)
    for rater, colour in enumerate(["#0072b2", "#d55e00", "#009e73"]):
        panel.contour(
            masks[image, rater], levels=[0.5], colors=colour, linewidths=1.5
        )
    panel.set(xticks=[], yticks=[])
_ = figure.suptitle("Grey: the true lesion. Lines: three people")


# %% [markdown]
# ## A model
#
# Our "model" finds the true lesions, but draws everything two pixels too wide. `max_pool2d` widens a mask.


# %%
def too_wide(true_masks):
    return torch.nn.functional.max_pool2d(
        true_masks[:, None].float(), 5, stride=1, padding=2
    )[:, 0]


logits = too_wide(truth) - 0.5  # above 0: marked

metric = SegmentationBounds(["iou", "nsd", "tpr"])
metric.update(logits, masks)
values = metric.compute()
for score in ("iou", "nsd", "tpr"):
    floor, model, ceiling = (
        float(values[f"{score}{what}"]) for what in ("_floor", "", "_ceiling")
    )
    print(
        f"{score:4} floor {floor:.2f}   model {model:.2f}   ceiling {ceiling:.2f}"
    )

# %%
figure, _ = metric.plot()
figure

# %% [markdown]
# Read it from left to right.
#
# - **IoU**: the band is wide, so this score can place a model. The model is below the ceiling: a border that is two
#   pixels too wide costs more than people's disagreement does.
# - **NSD** (the share of the borders that lie within two pixels of each other) says the same of the border alone.
# - **TPR**: the model misses nothing and has 1, and so has the naive rater, who marks everything. The floor lies
#   above the ceiling: **this score cannot place a model**, and a value of 1 means nothing.
#
# ## The same number is good or poor
#
# Now people who disagree more and more, and the same kind of model. Its IoU changes little. What it is worth changes
# much.

# %%
disagreement, rows = [0.5, 1.0, 1.5, 2.0, 2.5], []
for edge in disagreement:
    drawn = draw_lesions(
        40,
        sensitivity=[1.0] * people,
        specificity=[1.0] * people,
        edge=edge,
        prevalence=0.08,
        smoothness=8,
    )
    patterns = VotePatterns.from_masks(
        drawn.masks, preds=too_wide(drawn.truth).bool()
    )
    bounds = segmentation_bounds(patterns, ["iou"])
    rows.append(
        [
            float(mean["iou"].nanmean())
            for mean in (bounds.floor, bounds.model, bounds.ceiling)
        ]
    )

figure, axes = plt.subplots(figsize=(6, 3.5))
floors, models, ceilings = zip(*rows, strict=True)
axes.fill_between(
    disagreement, floors, ceilings, color="0.85", label="floor to ceiling"
)
axes.plot(disagreement, ceilings, "k-", label="average rater")
axes.plot(disagreement, floors, "k:", label="naive rater")
axes.plot(disagreement, models, "o-", color="#0072b2", label="the model")
_ = axes.set(
    xlabel="how far people's outlines lie from the true one (SD, pixels)",
    ylabel="IoU",
    ylim=(0, 1),
)
_ = axes.legend()
# %% [markdown]
# Where people agree, the model is poor. Where their outlines lie one and a half pixels from the true one, it is as
# good as they are, and beyond that better: the *ceiling came down*. That is why a score needs its floor and ceiling
# beside it.
#
# ## One image
#
# Everything is there for each image, too.

# %%
metric.per_image().head()

# %% [markdown]
# Next: [Add it to a training](2_add_it_to_a_training.ipynb).
