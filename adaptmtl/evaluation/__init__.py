"""Predictions of saved adapters, and the check of all arms against each other."""
