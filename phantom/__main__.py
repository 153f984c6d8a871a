"""``python -m phantom`` is the command ``phantom``."""

from phantom.cli import main

if __name__ == "__main__":
    main()
