"""
The arithmetic that all rooms share: arrays in, arrays out.

    robust        robust losses, widths, slopes and ratios: what wild values may do
    leastsquares  robust non-linear least squares with restraints and bounds
    sandwich      covariances of what was fitted, where weights are not inverse variances
    grouped       rows, means, medians, scores and sums of the others, group by group
    correlation   linear correlation: of two arrays, of sums, of groups, given controls
    amplitudes    roots of intensities
    shells        shells of resolution: their edges, and which one a reflection is in
    splines       cubic splines of one and more variables as design matrices, and their roughness
    absences      how strong observations are that should not be there
    populations   which of many values belong together
    cells         unit cells as six numbers: groups, bases, metric tensors
    indices       Miller indices as single integers, and as cctbx has them
    rotations     rotations about the laboratory axes, with derivatives
    compiled      numba's compiler, with a cache that ends with the sources
    loops         compiled loops: medians, robust slopes and correlations of short arrays, and those of groups

Nothing here imports anything else of the package, or knows of files, parameters, stills, images or maps.  numpy and
scipy, but for the rotation matrices and the Levenberg-Marquardt iterations, which are those of scitbx.  Angles are in
radians, but for those of unit cells, which are given in degrees as everywhere.
"""
