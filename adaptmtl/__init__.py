"""AdaptMTL."""
