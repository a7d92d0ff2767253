"""The generated RTL in real tools: simulation, lint, proofs, synthesis and what it costs."""
