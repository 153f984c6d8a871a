"""Reads the compiled definition (proto/) and writes every language's generated files.

``model`` turns descriptors into a typed model, ``targets`` turn the model into files, ``plugin`` is protoc's door.
"""
