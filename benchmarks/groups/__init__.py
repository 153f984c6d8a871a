"""What is measured: one module per group, each with a ``measure`` that returns its rows."""
