"""What every claim shares: settings in, one line per trial out, tables of the lines; planted problems."""
