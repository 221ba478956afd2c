"""Constants measured on each machine: their table, and the loads in compiled code."""
