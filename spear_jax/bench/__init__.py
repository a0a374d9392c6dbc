"""Rates of what the library does, measured on the device at hand; it may time clients and attacks together."""
