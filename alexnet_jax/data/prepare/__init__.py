"""Making a prepared set."""
