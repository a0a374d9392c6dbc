"""From a record to a page that one hands on: `write` makes it, the other modules are its parts."""
