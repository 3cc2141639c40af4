"""From what the user wrote to rows of results."""
