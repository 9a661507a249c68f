"""Adapters: the LoRA family, output heads, and the folder that is saved of them."""
