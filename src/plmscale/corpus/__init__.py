"""FASTA files to cleaned, split and tokenised shards."""
