"""What measures the packages; `make bench`. No test depends on a figure of it."""
