"""Contact prediction: which residues of a protein are close to each other in its structure."""
