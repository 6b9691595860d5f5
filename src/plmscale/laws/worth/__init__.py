"""What tokens are worth that were repeated, or trained on with another objective."""
