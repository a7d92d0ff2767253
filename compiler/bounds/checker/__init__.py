"""The independent checker of proofs: plain fractions, and no code of the prover."""
