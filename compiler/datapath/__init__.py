"""The HIF datapath in integers: ranges, widths, what is exact, and what never overflows."""
