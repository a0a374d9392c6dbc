"""What came back from a client, in any framework's files, as observations of layers.

`bundle` is the update itself, `bundle_file` its file; `make` makes one of two model files, `readers` read these.
"""
