"""Language models: tokens and sequences in the span of a transformer's gradients (DAGER and what goes beyond it)."""
