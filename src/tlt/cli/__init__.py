"""The command line: a command a file. Torch and its like are imported when a command runs."""
