"""Tasks: declarations, rows, tokens, predictions, metrics."""
