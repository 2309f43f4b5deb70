"""Maps of reciprocal space: NeXus, sums, CCP4, MTZ."""
