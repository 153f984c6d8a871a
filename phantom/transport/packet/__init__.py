"""Packets, sans-IO: container, flags, protection and the plaintext codecs (wire-native §10-17)."""
