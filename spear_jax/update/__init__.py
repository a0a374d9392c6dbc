"""What came back from a client, in any framework's files, as observations of layers."""
