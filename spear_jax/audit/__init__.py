"""What an auditor does with update files, for the command line, integrations and Python users alike."""
