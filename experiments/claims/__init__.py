"""One module for each claim of the literature, or of ours; `experiments.harness.tables` lists them."""
