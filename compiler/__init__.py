"""The compiler: from the syntax tree to exact values, tables and the NumPy reference."""
