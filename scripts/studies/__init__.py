"""Studies that measure the package itself: its costs, its intervals, and label noise. Not part of what is installed."""
