"""One file, one backend: every module here declares a `VARIANT`."""
