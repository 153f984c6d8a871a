"""The protocol between the crypto and the API: handshake, packets, sessions, legs."""
