"""Effects of mutations: variants, scores of models, metrics, ProteinGym's averages."""
