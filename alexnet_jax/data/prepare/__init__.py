"""Makes a prepared set."""
