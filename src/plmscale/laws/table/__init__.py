"""From anyone's table to rows a law may use."""
