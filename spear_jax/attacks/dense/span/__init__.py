"""The third proposer: samples as roots of the span equations, for any activation (docs/span.md)."""
