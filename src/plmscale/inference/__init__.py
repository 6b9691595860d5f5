"""Using a trained model: scores, embeddings and new sequences."""
