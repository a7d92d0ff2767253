"""Speed beside peers: `make bench-cpu`, `make bench-gpu`, and what they found in RESULTS.md."""
