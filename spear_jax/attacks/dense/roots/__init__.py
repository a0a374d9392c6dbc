"""Samples as roots: what the next layer saw of an input lies in the row space of that layer's gradient (docs/span.md).

`pair` has the equations on the host, `newton` solves them from many starts at once, `exact` takes a found sample out.
"""
