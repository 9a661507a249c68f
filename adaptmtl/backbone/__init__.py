"""Backbones: found by name, vetted, loaded, cut into segments, their lower states cached."""
