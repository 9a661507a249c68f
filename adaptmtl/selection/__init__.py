"""Choosing sources: rank aggregation, the guard against negative transfer, the planner."""
