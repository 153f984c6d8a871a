"""The two ends of every row: what a server and a client process do, here and in what a user would otherwise pick."""
