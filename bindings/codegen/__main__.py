"""``python -m bindings.codegen``: the protoc plugin."""

import sys

from bindings.codegen.plugin import main

if __name__ == "__main__":
    sys.exit(main())
