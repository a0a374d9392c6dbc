"""The private side of a simulation: data, model, what a client computes and sends, and the truth to score against.

Nothing between an update and its record may import this package; the report and the command line may.
"""
