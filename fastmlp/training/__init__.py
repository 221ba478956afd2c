"""`fit`: chunks of steps, and what happens between them."""
