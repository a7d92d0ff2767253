"""GPU speed beside memory and peers: `make bench-gpu`, and what it found in RESULTS.md.

    python -m fmtc.bench.gpu [--quick] [--formats nvfp4,nf4] [--budget 480] [--json] [--write]

Every kernel is held against the reference before anything is timed. ``plan`` says what is
measured, ``clock`` how, ``correct``, ``coding`` and ``products`` do it, and ``peers`` holds the
other libraries. All of it also runs on a CPU (``--dry-run``) on tiny matrices, with a clock that
invents its figures: that is how it is tested.
"""
