"""What the Verilog of a design is made of: one file a part, each a module and its bench."""
