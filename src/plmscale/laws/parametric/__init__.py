"""L(N, D) = E + A / N^alpha + B / D^beta: search, intervals, and what the data identify."""
