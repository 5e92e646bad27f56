"""The imager: volumes of VMs, captured by QMP and dirty bitmaps, without a new I/O path (docs/capture.md)."""
