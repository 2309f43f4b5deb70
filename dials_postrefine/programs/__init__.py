"""
The programs, callable from Python: one module, or a folder, a program with run(Request) -> Result, without any PHIL.

    from dials_postrefine.programs import postrefine
    from dials_postrefine.settings.postrefine import PostrefineRequest

    result = postrefine.run(PostrefineRequest(experiments=("stills.expt",), reflections=("stills.refl",)))
    result.summary["after"][-1]["cc_half"]

A program reads files, hands arrays to the algorithms, and has their outcome written and reported: this room joins
files, algorithms and report, and decides nothing scientific.  launch.py has what the programs share, and
algorithm_settings.py makes what files and algorithms take of the Requests.  What joins them at length has modules of
its own: stills_input.py and stills_output.py, reference_model.py and merged_data.py.
"""
