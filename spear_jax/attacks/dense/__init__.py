"""Fully connected layers followed by ReLU: SPEAR (Dimitrov et al., NeurIPS 2024) and what goes beyond it.

Read `pipeline` first: it names the stages in order.
"""
