"""Security state that outlives a packet: replay windows, reputation of sources."""
