"""Services of the process and the system: threads, signals, forks, stderr, renames, time spent compiling."""
