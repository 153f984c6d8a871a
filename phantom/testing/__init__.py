"""Testing tools for users of Phantom: in-memory legs, virtual clock, vector runner."""
