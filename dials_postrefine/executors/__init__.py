"""How work is spread over processes, and what signals do to it."""
