"""What the process and the system give: threads, signals, forks, stderr, renames, time spent compiling."""
