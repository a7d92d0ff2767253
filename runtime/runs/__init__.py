"""Runs: a whole model quantized by a recipe, in steps that survive a kill at any moment."""
