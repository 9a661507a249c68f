"""Places that rows are read from: the Hub, a mirror folder, package archives, a person's own files."""
