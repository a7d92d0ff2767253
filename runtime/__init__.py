"""The runtime: tensors, back ends, checkpoints, models and verification."""
