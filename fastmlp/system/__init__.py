"""Services of the process and the system: threads, signals, forks, stderr, files, compile times."""
