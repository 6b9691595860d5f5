"""IsoFLOP methods: the best size of each budget, and power laws through them."""
