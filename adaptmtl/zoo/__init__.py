"""The store of adapters: trained once, found by name, shared through the Hub."""
