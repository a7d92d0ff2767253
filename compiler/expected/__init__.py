"""Expected errors of a format, by quadrature over order statistics."""
