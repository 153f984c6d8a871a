"""The bindings of other languages, and the generator that writes them."""
