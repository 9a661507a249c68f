"""Declarations that ship with the package: tasks, suites and embedded backbones, as YAML."""
