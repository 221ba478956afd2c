"""What the process and the system give: threads, signals, forks, stderr, the time spent compiling."""
