"""Constants that are measured on each machine: their table, and how compiled code reads them."""
