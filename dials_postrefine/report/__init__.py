"""What a person reads: statistics collected from the results, as text and JSON.  The algorithms know nothing of it."""
