"""The sidecar: Phantom for any language, over gRPC on a local socket (surface §15)."""
