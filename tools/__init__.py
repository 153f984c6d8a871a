"""What builds and checks Phantom; nothing in it is shipped."""
