"""Packed weights on a GPU and products with them.

Weights are laid out once for the kernels (``weights``, ``permute``); what stands at a few places
only is added by a kernel of its own (``sparse``). Everything also runs on the CPU, kernels in
Triton's interpreter, so that it can be tested anywhere.
"""
