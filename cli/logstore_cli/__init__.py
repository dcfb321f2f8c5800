"""The `logstore` command: parses, calls the library once, prints."""
