"""The sans-IO session: connection, streams, reliability, flow control, memory, liveness (architecture §4)."""
