"""Which bytes of a space are covered by what: sorted intervals and newest-first resolution. PURE, numpy."""
