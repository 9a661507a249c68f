"""Transfer estimation: how well a source will help a target, before training on it."""

from adaptmtl.transfer import hscore, logme, probe, size, text_embedding, tupate  # noqa: F401  (they register themselves)
