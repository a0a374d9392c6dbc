"""What an auditor does with update files, for the command line, integrations and Python users alike.

`path` audits a file or a folder (`audit_update`), by `one` and `folder`; `shards` merges what several machines drew;
`exposure` and `diagnose` say what a layer shows and what is in the way; `sweep` tries every defence; `record` and
`resume` read and write the folder.
"""
