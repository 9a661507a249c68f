"""Transfer estimation: how well a source will help a target, before training on it."""

from adaptmtl.transfer import (  # noqa: F401  (they register themselves)
    esm_logme,
    few_step,
    first_order,
    hscore,
    knn,
    leep,
    logme,
    pivot,
    popularity,
    probe,
    random_order,
    size,
    taskemb,
    text_embedding,
    tupate,
)
