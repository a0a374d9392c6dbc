"""Language models that client and attack share: pure forward passes over the checkpoint's own tensor names."""
