"""Fusion: one adapter out of several."""

from adaptmtl.fusion import dare, knots, linear, svd, ties  # noqa: F401  (they register themselves)
