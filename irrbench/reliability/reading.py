"""How a report on raters is to be read: what never changes from study to study."""

from __future__ import annotations

CONVENTIONS = (
    "The words for a value are conventions and no laws: below .5 poor, to .75 moderate, to .9 good, above excellent, "
    "for an intraclass correlation (Koo & Li 2016, doi 10.1016/j.jcm.2016.02.012); .8 or more reliable, from .667 on "
    "good for tentative conclusions, for alpha (Krippendorff 2004, Content Analysis). What is enough depends on what "
    "the masks are for."
)
HOW_TO_READ: tuple[tuple[str, str], ...] = (
    (
        "Agreement",
        (
            "Percent agreement counts pairs of raters who say the same of a pixel; where lesions are small, that is "
            "nearly all, as nearly all pixels are background. Alpha, Fleiss' and Cohen's kappa take off what chance "
            "would give, and fall where lesions are rare. AC1 takes off less, and stays near 1 there. None alone is "
            "right: read them together."
        ),
    ),
    (
        "Pixel ICC",
        (
            "How much of the variance of single marks, on the logit scale, is the pixel. Where nearly all pixels are "
            "unanimous it is an extrapolation: the pixels' variance runs into the hundreds, and what raters disagree "
            "on, the rim, counts little. It changes with how much background the region of interest holds, so compare "
            "it only between data sets with like regions. Laplace is the usual approximation (that of R's lme4), "
            "quadrature is nearly exact: where the two differ much, trust neither to the second digit. Laplace also "
            "depends on the number of raters."
        ),
    ),
    (
        "Area ICC",
        (
            "The same for blocks of the image, with each rater's count of marks in each block: whether raters mark as "
            "much in the same places. Disagreement that is finer than a block does not count."
        ),
    ),
    (
        "Extent ICC",
        (
            "Whether images differ in how much of them is marked, beside raters who mark more or less. It does not "
            "look where the marks are, and it is high wherever lesions differ much in size."
        ),
    ),
    (
        "Average and naive rater",
        (
            "Each rater scored against the majority of the others, and somebody who marks everything. Where a careless "
            "mask scores nearly as high as the average rater, the score cannot tell models apart. TPR, PPV and "
            "specificity see one kind of error only, and are not to be monitored alone."
        ),
    ),
    (
        "Others' majority",
        (
            "Where more than half of the other raters mark. With three raters that is where both others mark, which is "
            "less than either marks: then every rater seems to mark too much, and only how raters differ in it says "
            "something."
        ),
    ),
    (
        "Without one rater",
        (
            "A measure that rises when a rater is left out says that this rater draws differently from the others; not "
            "that they are wrong. The average rater's score changes for another reason too: fewer peers make a "
            "rougher reference."
        ),
    ),
)
