"""Draw raters with known parameters: for tests, for documentation, and to plan a study.

:func:`draw_patterns` and :func:`draw_masks` draw from the crossed logistic model that the pixel and joint
ICC fit, with known variances. :func:`draw_lesions` draws smooth lesions, which look like masks, and raters with known
sensitivity, specificity and displacement of the outline.

How many raters, how many images? Draw the planned study a few dozen times and see how much its result varies. Here the
standard deviation of a Krippendorff's alpha averaged over 5 and over 40 images, with three raters:

    >>> from irrbench import krippendorff_alpha
    >>> from irrbench.simulate import draw_patterns
    >>> def spread(images):
    ...     drawn = draw_patterns(50 * images, num_raters=3, pixels=4000, var_pixel=9.0, var_rater=0.5, var_image=1.0)
    ...     return krippendorff_alpha(drawn).view(50, images).mean(1).std().item()
    >>> spread(40) < spread(5) / 2
    True

Draw with the variances of a pilot study (:func:`~irrbench.icc.joint.joint_icc` gives them), and count how often the
planned comparison has the right result.

Axes: ``B`` images, ``R`` raters, ``H x W`` pixels, ``K = 2**R`` patterns.
"""

from __future__ import annotations

from irrbench.simulate.drawing import Lesions, draw_lesions, draw_masks, draw_patterns

__all__ = ["Lesions", "draw_lesions", "draw_masks", "draw_patterns"]
