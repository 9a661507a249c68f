"""Training: one task at a time or many at once, through adapters or all weights."""
